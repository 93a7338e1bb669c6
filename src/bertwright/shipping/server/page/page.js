"use strict";
// All that comes from the server or the user is put in as text, never as markup.
const $ = (id) => document.getElementById(id);
const made = (name, text, className) => {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
};
const takes = [];
let asking = false;

function chooseModel() {
  const pairs = $("model").selectedOptions[0].dataset.pairs === "true";
  $("second").hidden = !pairs;
  $("pair").required = pairs;
}
function say(text, isError) {
  $("status").textContent = text;
  $("status").className = isError ? "error" : "";
}
function row(cells) {
  const line = made("tr");
  cells.forEach((cell, place) => {
    const element = made(place ? "td" : "th", undefined, place ? "number" : "");
    if (!place) element.scope = "row";
    element.append(typeof cell === "string" ? made("bdi", cell) : cell);
    line.append(element);
  });
  return line;
}
function bar(share) {
  const space = "http://www.w3.org/2000/svg";
  const picture = document.createElementNS(space, "svg");
  picture.setAttribute("aria-hidden", "true");
  const box = document.createElementNS(space, "rect");
  box.setAttribute("width", `${Math.max(0, Math.min(1, share)) * 100}%`);
  box.setAttribute("height", "100%");
  box.setAttribute("rx", "2");
  picture.append(box);
  return picture;
}
function showScores(answer) {
  $("scores").replaceChildren(...answer.scores.map(({ label, score }) => {
    const line = row([label, score.toFixed(4), bar(score)]);
    line.lastChild.className = "bar";
    return line;
  }));
  $("label").textContent = answer.label;
}
function showWords(answer) {
  const all = answer.pieces.flat();
  const most = Math.max(...all.map(({ effect }) => Math.abs(effect)), 1e-9);
  $("words").replaceChildren(...answer.pieces.map((pieces) => {
    const line = made("p");
    for (const { text, effect } of pieces) {
      const step = Math.ceil((Math.abs(effect) / most) * 4 - 0.4);
      if (step < 1) { line.append(text); continue; }
      const word = text.trimEnd();
      const mark = made("span", word, `${effect > 0 ? "up" : "down"} s${Math.min(step, 4)}`);
      mark.title = `${effect > 0 ? "+" : "−"}${Math.abs(effect).toFixed(4)}`;
      line.append(mark, text.slice(word.length));
    }
    return line;
  }));
  const ranked = [...all].sort((a, b) => Math.abs(b.effect) - Math.abs(a.effect));
  $("effects").replaceChildren(...ranked.map(({ text, effect }) =>
    row([text.trim(), `${effect < 0 ? "−" : "+"}${Math.abs(effect).toFixed(4)}`])));
}
function showTimes(answer, timing, took) {
  takes.push(took);
  if (takes.length > 20) takes.shift();
  const sorted = [...takes].sort((a, b) => a - b);
  const part = (name) => {
    const found = timing.match(new RegExp(`${name};dur=([\\d.]+)`));
    return found ? `${Number(found[1]).toFixed(1)} ms` : "–";
  };
  const known = [
    ["Waiting", part("queue")], ["Tokenising", part("tokenization")], ["Computing", part("inference")],
    ["Seen from here", `${took.toFixed(1)} ms`],
    [`Median of your last ${sorted.length}`, `${sorted[Math.floor(sorted.length / 2)].toFixed(1)} ms`],
  ];
  const { requests, p50_ms: half, p99_ms: nearlyAll } = answer.recent;
  if (requests) {
    const whose = Number($("latency").dataset.workers) > 1 ? "this worker’s" : "the"; // each knows its own requests alone
    known.push([`All of ${whose} last minute (${requests}): half`, `${half.toFixed(1)} ms`], ["99 of 100 within", `${nearlyAll.toFixed(1)} ms`]);
  }
  $("times").replaceChildren(...known.map(([name, value]) => {
    const box = made("div");
    box.append(made("dt", name), made("dd", value));
    return box;
  }));
}
async function ask(event) {
  event.preventDefault();
  if (asking) return;
  asking = true;
  $("submit").setAttribute("aria-disabled", "true");
  say("Scoring …");
  const began = performance.now();
  try {
    const pairs = !$("second").hidden;
    const headers = { "Content-Type": "application/json" };
    if ($("key").value) headers.Authorization = `Bearer ${$("key").value}`;
    const inputs = pairs ? [$("text").value, $("pair").value] : $("text").value;
    const response = await fetch("explain", {
      method: "POST", headers, body: JSON.stringify({ inputs, model: $("model").value }),
    });
    const answer = await response.json();
    if (response.status === 401) {
      $("key-line").hidden = false;
      $("key").focus();
    }
    if (!response.ok) { say(answer.error, true); return; }
    showScores(answer);
    showWords(answer);
    showTimes(answer, response.headers.get("Server-Timing") || "", performance.now() - began);
    $("result").hidden = $("latency").hidden = false;
    const [first] = answer.scores;
    say(`${first.label}: ${first.score.toFixed(4)}`);
  } catch (error) {
    say("The server did not answer.", true);
  } finally {
    asking = false;
    $("submit").removeAttribute("aria-disabled");
  }
}
$("form").addEventListener("submit", ask);
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("form").requestSubmit();
});
$("model").addEventListener("change", chooseModel);
$("models").hidden = $("model").options.length < 2;
chooseModel();

"use strict";
// Tables are sorted by their headings' buttons; folded parts are printed too. Without this script all is still there.
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const body = table.tBodies[0];
  const first = [...body.rows];
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const was = heading.getAttribute("aria-sort");
      const numeric = heading.classList.contains("number");
      // Numbers start with the highest, words with the first; the third time all is as it was.
      const order = numeric ? ["descending", "ascending"] : ["ascending", "descending"];
      const now = order[order.indexOf(was) + 1];
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      let rows = [...first];
      if (now) {
        heading.setAttribute("aria-sort", now);
        const key = (row) => row.cells[column].dataset.order;
        const compare = numeric
          ? (a, b) => Number(key(a)) - Number(key(b))
          : (a, b) => key(a).localeCompare(key(b), undefined, { numeric: true });
        const missing = (row) => numeric && Number.isNaN(Number(key(row)));
        const known = rows.filter((row) => !missing(row)).sort(compare);
        if (now === "descending") known.reverse();
        rows = [...known, ...rows.filter(missing)];
      }
      body.append(...rows);
    });
  });
}
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const details of opened) details.open = true;
});
addEventListener("afterprint", () => {
  for (const details of opened) details.open = false;
});

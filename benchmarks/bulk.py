"""Scoring a large file, killed twice and gone on with, beside the rate of ``bertwright bench infer``.

    python benchmarks/make_tokenize_data.py comments.csv
    python benchmarks/bulk.py comments.csv --work /var/tmp/bulk --output bulk.jsonl

A bert-tiny learns from the first texts of the file (is it a review or an article?). Then, one after the other:

- the whole file is scored, killed with kill -9 at two random moments and started again, always by the same command;
- the whole file is scored again, undisturbed: the two outputs must have the same bytes.

Before the first, after each kill and after each scoring, ``bench infer`` measures the same run on texts drawn from the
same file: the machine's drift shows in its figures. A scoring's rate counts everything from the start of the process to
its end: loading, reading, tokenising, scoring, writing, and of the killed ones also what was lost. One line of JSON.
Stopped and started again, this script goes on behind the last scoring that was whole.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import itertools
import json
import random
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from watched import Watched, watch

from bertwright.hardware import source_commit
from bertwright.runs import read_json, write_json

GOAL_SHARE = 0.9
NUM_KILLS = 2
_OUTPUTS = {"killed": "killed.parquet", "undisturbed": "undisturbed.parquet"}
_STAGES = "stages.json"
_CONTENDERS = {"bertwright": "from_ids", "bertwright-texts": "from_texts"}


class Scoring:
    """Scores ``texts`` in the folder ``work`` and looks at the shards that are whole."""

    def __init__(self, texts: Path, work: Path, output: str, shard_texts: int, num_shards: int) -> None:
        self.log = work / f"{output}.shards" / "_shards.jsonl"
        self._work, self._num_shards = work, num_shards
        shards = ["--shard-texts", str(shard_texts)]
        self._command = ["predict", "run", str(texts), "--output", output, "--resume", *shards]

    def num_whole(self) -> int:
        return self.log.read_bytes().count(b"\n") if self.log.exists() else 0

    def part(self, kill_at: tuple[int, float] | None) -> dict[str, Any]:
        """Start it, or start it again, until it is whole or, as ``kill_moments`` has it, killed."""
        before = whole = self.num_whole()
        wanted = None if kill_at is None else max(kill_at[0], before + 1)
        times: list[tuple[float, int]] = []  # when a shard was first seen to be whole, and how many were then

        def kill_when(seconds: float) -> bool:
            nonlocal whole
            now = self.num_whole()
            if now > whole:
                whole = now
                times.append((seconds, now))
            if kill_at is None or wanted is None or whole < wanted:
                return False
            reached_s = next(at_s for at_s, number in times if number >= wanted)
            return seconds >= reached_s + kill_at[1] * (reached_s - times[0][0]) / max(wanted - times[0][1], 1)

        done = watch(self._command, self._work, kill_when, self._work / "predict.log")
        if kill_at is not None and not self.log.exists():
            raise SystemExit("the scoring ended before it was killed: pass fewer --shard-texts, or another --seed")
        # The folder of shards goes when the output is there.
        after = self._num_shards if done.exit_code == 0 else self.num_whole()
        return {
            "exit_code": done.exit_code,
            "seconds": done.seconds,
            "shards_before": before,
            "shards_after": after,
            **_memory(done),
            "shard_times": times,
        }


def _memory(done: Watched) -> dict[str, Any]:
    return {"peak_bytes": done.peak_bytes, "peak_bytes_by_tenth_of_the_time": done.peaks_by_part(10)}


def kill_moments(num_shards: int, seed: int) -> list[tuple[int, float]]:
    """When to kill: after how many whole shards, at least one each time, and what share of a shard's time later.

    Not among the last shards: small ones are all whole before anybody has looked.
    """
    draw = random.Random(seed)
    numbers = range(1, num_shards * 4 // 5)
    if len(numbers) < NUM_KILLS:
        raise SystemExit(f"{num_shards} shards are too few for {NUM_KILLS} kills: pass fewer --shard-texts")
    return [(number, round(draw.random(), 3)) for number in sorted(draw.sample(numbers, NUM_KILLS))]


def bench(texts: Path, work: Path, num_texts: int, rounds: int) -> dict[str, Any]:
    """The rates of ``bench infer``: texts a second from token ids, and from texts."""
    lines = work / "bench.jsonl"
    size = ["--num-texts", str(num_texts), "--rounds", str(rounds)]
    words = ["bench", "infer", str(texts), "--run", "run", "--contenders", "bertwright-texts", *size]
    watch([*words, "--output", lines.name], work, log=work / "bench.log")
    found = json.loads(lines.read_text().splitlines()[-1])
    rates = {_CONTENDERS[one["name"]]: one["texts_per_s"] for one in found["contenders"]}
    return {"measured": found["measured"], "num_texts": found["num_texts"], "text_tokens": found["text_tokens"]} | {
        "dtype": found["dtype"],
        "environment": found["environment"],
        "busy_share_at_start": found["busy_share_at_start"],
        "texts_per_s": rates,
    }


def train(texts: Path, work: Path, num_texts: int) -> None:
    """A bert-tiny that has learnt from the first texts."""
    csv.field_size_limit(1 << 24)
    with open(texts, newline="", encoding="utf-8") as file, open(work / "train.csv", "w", encoding="utf-8") as out:
        csv.writer(out).writerows(itertools.islice(csv.reader(file), num_texts + 1))
    learn = ["train", "train.csv", "--model", "bert-tiny", "--validation-share", "0.1", "--output", "run"]
    watch([*learn, "--overwrite"], work, log=work / "train.log")


def count_rows(texts: Path) -> int:
    csv.field_size_limit(1 << 24)
    with open(texts, newline="", encoding="utf-8") as file:
        return sum(1 for _ in csv.reader(file)) - 1


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Stages:
    """What was measured so far, in a file: a stage that is there is not done again."""

    def __init__(self, path: Path, asked: dict[str, Any]) -> None:
        self._path = path
        found = read_json(path) if path.exists() else {}
        self.done: dict[str, Any] = found if found.get("asked") == asked else {"asked": asked}

    def get(self, name: str, measure: Callable[[], Any]) -> Any:
        if name not in self.done:
            print(f"{name} ...", flush=True)
            value = measure()
            self.done[name] = value
            write_json(self._path, self.done)
        return self.done[name]


def score_killed(scoring: Scoring, moments: list[tuple[int, float]], measure: Callable[[], Any]) -> dict[str, Any]:
    parts, benches = [], []
    for moment in [*moments, None]:
        parts.append(scoring.part(moment) | {"kill_at": moment})
        print(f"  {parts[-1]['seconds']:.1f} s, {parts[-1]['shards_after']} shards are whole", flush=True)
        benches.append(measure())
    return {"parts": parts, "bench": benches}


def steady_texts_per_s(part: dict[str, Any], shard_texts: int) -> float | None:
    """Texts a second between the first shard that was seen to be whole and the last."""
    times = part["shard_times"]
    if len(times) < 2 or times[-1][0] <= times[0][0]:
        return None
    return (times[-1][1] - times[0][1]) * shard_texts / (times[-1][0] - times[0][0])


def line_of(stages: Stages, num_texts: int, shard_texts: int, identical: bool) -> dict[str, Any]:
    killed, undisturbed = stages.done["killed"], stages.done["undisturbed"]
    benches = [stages.done["bench"], *killed["bench"], *undisturbed["bench"]]
    environment = benches[0]["environment"]
    rates = {
        kind: statistics.median(one["texts_per_s"][kind]["median"] for one in benches) for kind in _CONTENDERS.values()
    }
    found: dict[str, Any] = {"case": "bulk", "commit": source_commit(), **stages.done["asked"]}
    found |= {"num_texts": num_texts, "identical_bytes": identical, "bench_texts_per_s": rates}
    for name, scored in (("killed", killed), ("undisturbed", undisturbed)):
        parts = scored["parts"]
        seconds = sum(part["seconds"] for part in parts)
        steady = [steady_texts_per_s(part, shard_texts) for part in parts]
        found[name] = {
            "seconds": seconds,
            "texts_per_s": num_texts / seconds,
            "share_of_bench": {kind: num_texts / seconds / rate for kind, rate in rates.items()},
            "steady_texts_per_s": steady,
            "peak_bytes": max(part["peak_bytes"] for part in parts),
            "parts": [{key: part[key] for key in part if key != "shard_times"} for part in parts],
        }
    for one in benches:
        del one["environment"]
    return found | {"goal_share": GOAL_SHARE, "benches": benches, "environment": environment}


def show(found: dict[str, Any]) -> None:
    print(f"\n| {found['num_texts']:,} texts | seconds | texts/s | of bench, from ids | of bench, from texts | peak |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, words in (("undisturbed", "undisturbed"), ("killed", f"killed {NUM_KILLS} times")):
        one = found[name]
        shares = " | ".join(f"{one['share_of_bench'][kind]:.1%}" for kind in _CONTENDERS.values())
        peak = f"{one['peak_bytes'] / 2**20:,.0f} MiB"
        print(f"| {words} | {one['seconds']:,.1f} | {one['texts_per_s']:,.0f} | {shares} | {peak} |")
    for kind in _CONTENDERS.values():
        drift = ", ".join(f"{one['texts_per_s'][kind]['median']:,.0f}" for one in found["benches"])
        print(f"\nbench infer, {kind.replace('_', ' ')}, in the order of time: {drift} texts/s")
    print(f"\nthe two outputs have the same bytes: {'yes' if found['identical_bytes'] else 'NO'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, help="csv of text and label, as make_tokenize_data.py makes it")
    parser.add_argument("--work", type=Path, required=True, help="folder for the run and the outputs, kept")
    parser.add_argument("--output", type=Path, required=True, help="file of lines, added to")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--shard-texts", type=int, default=16_384)
    parser.add_argument("--train-texts", type=int, default=20_000)
    parser.add_argument("--bench-texts", type=int, default=16_384)
    parser.add_argument("--bench-rounds", type=int, default=7)
    given = parser.parse_args()
    texts, work = given.texts.absolute(), given.work
    work.mkdir(parents=True, exist_ok=True)
    names = ("seed", "shard_texts", "train_texts", "bench_texts", "bench_rounds")
    asked = {name: getattr(given, name) for name in names} | {"file_bytes": texts.stat().st_size}
    stages = Stages(work / _STAGES, asked)
    num_texts = stages.get("rows", lambda: count_rows(texts))
    # A shard has so many texts but for the last, as long as they are no longer than 1,000 bytes on average.
    num_shards = -(-num_texts // given.shard_texts)

    def measure() -> dict[str, Any]:
        return bench(texts, work, given.bench_texts, given.bench_rounds)

    stages.get("trained", lambda: train(texts, work, given.train_texts))
    stages.get("bench", measure)
    for name, moments in (("killed", kill_moments(num_shards, given.seed)), ("undisturbed", [])):
        scoring = Scoring(texts, work, _OUTPUTS[name], given.shard_texts, num_shards)
        if name not in stages.done:  # what an earlier start of this script has left must not be gone on with
            shutil.rmtree(scoring.log.parent, ignore_errors=True)
            (work / _OUTPUTS[name]).unlink(missing_ok=True)
        stages.get(name, lambda scoring=scoring, moments=moments: score_killed(scoring, moments, measure))
    identical = len({sha256_of(work / name) for name in _OUTPUTS.values()}) == 1
    found = line_of(stages, num_texts, given.shard_texts, identical)
    with open(given.output, "a", encoding="utf-8") as file:
        file.write(json.dumps(found) + "\n")
    (work / _STAGES).unlink()  # another start measures anew
    show(found)
    if not identical:
        raise SystemExit(f"{work}: {' and '.join(_OUTPUTS.values())} differ")


if __name__ == "__main__":
    main()

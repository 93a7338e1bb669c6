"""A csv of 1,500,000 distinct texts, about 600 MB, to measure tokenising on: cut from Wikipedia and IMDb reviews.

    python benchmarks/make_tokenize_data.py tokenize_1500k.csv

The articles and reviews are read from ``wikipedia/articles.parquet`` and ``imdb/*.parquet`` in the folder that
``--data`` or BERTWRIGHT_DATA names (``data``, if neither does), mixed, and cut at white space into pieces whose lengths
vary as those of comments do: most are short, a few are long. The columns are ``text`` and ``label`` (1: from a review,
0: from an article), quoted where need be. The same seed and files give the same bytes. No more than a few hundred
articles are held at once.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

NUM_TEXTS = 1_500_000
MEAN_CHARACTERS = 440  # drawn; the ends of documents are shorter, so that about 375 are left on average
SPREAD = 0.6  # of the logarithm of the lengths
LEAST_CHARACTERS = 40
_REVIEWS = ("imdb/train.parquet", "imdb/test.parquet", "imdb/unsup.parquet")
_ARTICLES = ("wikipedia/articles.parquet",)


def documents(files: list[Path]) -> Iterator[str]:
    """The texts of parquet files, one after the other."""
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=500, columns=["text"]):
            for text in batch.column(0).to_pylist():
                if text and text.strip():
                    yield text.replace("\x00", " ").replace("\r", "\n")


def pieces(text: str, generator: np.random.Generator) -> Iterator[str]:
    """``text`` cut at white space; a rest too short to stand alone stays with the piece before it."""
    start = 0
    while start < len(text):
        wanted = int(generator.lognormal(np.log(MEAN_CHARACTERS) - SPREAD**2 / 2, SPREAD))
        end = start + max(wanted, LEAST_CHARACTERS)
        while end < len(text) and not text[end].isspace():
            end += 1
        if len(text) - end < LEAST_CHARACTERS:
            end = len(text)
        piece = text[start:end].strip()
        if piece:
            yield piece
        start = end


def mixed(data: Path, seed: int) -> Iterator[tuple[str, int]]:
    """Pieces of reviews (1) and articles (0), the documents in random order of kinds, each kind in its files' order."""
    generator = np.random.default_rng(seed)
    sources = [documents([data / name for name in _ARTICLES]), documents([data / name for name in _REVIEWS])]
    share = 100_000 / (100_000 + 283_506)  # reviews among all documents, so that both last to the end
    while True:
        kind = int(generator.random() < share)
        document = next(sources[kind], None)
        if document is None:
            kind = 1 - kind
            document = next(sources[kind], None)
        if document is None:
            return
        for piece in pieces(document, generator):
            yield piece, kind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("BERTWRIGHT_DATA", "data")))
    parser.add_argument("--texts", type=int, default=NUM_TEXTS)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for name in (*_ARTICLES, *_REVIEWS):
        if not (given.data / name).is_file():
            raise SystemExit(f"{given.data / name}: no such file; name the folder that holds the data with --data")
    seen: set[bytes] = set()
    characters = 0
    partial = given.output.with_name(given.output.name + ".partial")
    with open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["text", "label"])
        for text, label in mixed(given.data, given.seed):
            digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
            if digest in seen:
                continue
            seen.add(digest)
            characters += len(text)
            writer.writerow([text, label])
            if len(seen) == given.texts:
                break
    if len(seen) < given.texts:
        partial.unlink()
        raise SystemExit(f"{given.data}: only {len(seen):,} distinct texts, expected {given.texts:,}")
    os.replace(partial, given.output)
    size = given.output.stat().st_size
    print(f"{given.output}: {len(seen):,} texts, {characters / len(seen):.1f} characters on average, {size:,} bytes")


if __name__ == "__main__":
    main()

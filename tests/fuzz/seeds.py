"""Makes the valid inputs of the corpus: ``python -m tests.fuzz.seeds [TARGET...]``. What once failed stays."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

from tests.fuzz.target import CORPUS, write_case
from tests.fuzz.targets import TARGETS

SEED = "seed-"


def main(names: Sequence[str]) -> None:
    for name in names or TARGETS:
        for old in (CORPUS / name).glob(f"{SEED}*"):
            shutil.rmtree(old)
        for seed, case in TARGETS[name].seeds().items():
            write_case(CORPUS / name / f"{SEED}{seed}", case)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Contenders for the tests, named by an absolute module name that the workers can import."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

from bertwright.benchmarking.cases import Case
from bertwright.benchmarking.contender import NotPossible, Turn


class Steady:
    """Takes a stated time for its texts."""

    def __init__(self, case: Case, seconds: float = 0.5, **chosen: Any) -> None:
        self.case, self.seconds = case, seconds
        self.chosen = {"num_texts": case.num_texts, **chosen}
        print("a library prints on standard output")

    def run(self) -> Turn:
        return Turn(self.seconds, self.case.num_texts, 10 * self.case.num_texts)

    def outcome(self) -> dict[str, np.ndarray]:
        return {"logits": np.array([[np.log(self.seconds), np.log(1 - self.seconds)]] * self.case.num_texts)}


class Greedy(Steady):
    """Burns CPU while the others have their turns."""

    def run(self) -> Turn:
        import threading

        until = time.monotonic() + 5.0

        def burn() -> None:
            while time.monotonic() < until:
                pass

        threading.Thread(target=burn, daemon=True).start()
        return super().run()


class Dying(Steady):
    """Leaves without a word at its second turn."""

    turns = 0

    def run(self) -> Turn:
        self.turns += 1
        if self.turns == 2:
            os.write(2, b"something terrible\n")
            os._exit(7)
        return super().run()


class Raising(Steady):
    def run(self) -> Turn:
        raise RuntimeError("out of\nideas")


class Turning(Steady):
    """Computes something else after its first turn."""

    turns = 0

    def run(self) -> Turn:
        self.turns += 1
        return super().run()

    def outcome(self) -> dict[str, np.ndarray]:
        return {"logits": np.full((self.case.num_texts, 2), float(self.turns > 1))}


class NotHere:
    def __init__(self, case: Case) -> None:
        raise NotPossible("wants another machine")


class Lacking:
    def __init__(self, case: Case) -> None:
        import a_package_that_nobody_has  # noqa: F401


class Ours:
    """Our float32, with logits that are off by as much as is asked for, in batches or one text at a time."""

    def __init__(self, case: Case, shift: float = 0.0, shift_alone: float = 0.0) -> None:
        from bertwright.benchmarking.ours import Inference

        self.ours = Inference(case, "float32")
        self.chosen, self.run = self.ours.chosen, self.ours.run
        self.off, self.off_alone = np.array([0.0, shift]), np.array([0.0, shift_alone])

    def score_alone(self, ids: np.ndarray) -> np.ndarray:
        return self.ours.score_alone(ids) + self.off_alone

    def outcome(self) -> dict[str, np.ndarray]:
        return {"logits": self.ours.outcome()["logits"] + self.off}

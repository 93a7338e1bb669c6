"""A student's teacher: loaded, asked once about all texts, its answers kept in files with hashes.

    teacher_scores/<key>.npy   logits (texts, labels) float32, or hidden vectors (texts, hidden) float16, of some texts
    teacher_scores/<key>.json  the file's size and hash, what it is of, and the seconds that it took; with its own hash

The key is a hash of the teacher's weights, of how it reads, of the dtype that it computed in and of the texts' token
ids: another student, split, seed or temperature finds the same files again. They are read only if their hashes fit.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from bertwright import runs
from bertwright.config.distill import DistillConfig
from bertwright.config.parts import LongTexts, MachineSettings
from bertwright.config.train import TrainConfig
from bertwright.data.columns import LabelledTexts
from bertwright.data.ragged import Ragged
from bertwright.data.tokenize import token_ids_of
from bertwright.errors import CheckpointError, DataError, RunError, UserError
from bertwright.evaluation.cascade import LARGE, is_cascade
from bertwright.evaluation.predictor import Predictor
from bertwright.model.checkpoint import Loaded, load_classifier
from bertwright.model.classifier_settings import ClassifierSettings
from bertwright.progress import Reporter, duration
from bertwright.training.learners import compute_features
from bertwright.training.soft_targets import Lessons
from bertwright.training.state import (
    Damaged,
    FileRecord,
    StrictRecord,
    check_file,
    read_sealed,
    write_file,
    write_sealed,
)
from bertwright.training.trace import weights_sha256

# Texts of one file of scores: what is lost, at most, of a scoring that is stopped.
_PART_TEXTS = 1 << 14
# Settings that a student has from its teacher where they are not given: how texts are read.
_READING = ("max_length", "long_texts", "window_overlap", "window_pooling")

What = Literal["logits", "hidden"]


@dataclass(frozen=True)
class Teacher:
    """A classifier that a student learns from, in float32 on the CPU until it is asked."""

    name: str
    loaded: Loaded
    weights_sha256: str

    @property
    def settings(self) -> ClassifierSettings:
        return self.loaded.settings

    @property
    def hidden_size(self) -> int:
        return self.loaded.model.config.hidden_size

    @property
    def num_parameters(self) -> int:
        return num_parameters(self.loaded.model)

    def describe(self) -> dict[str, Any]:
        """Who taught: for a run's environment.json."""
        return {
            "teacher": self.loaded.description,
            "teacher_weights_sha256": self.weights_sha256,
            "teacher_notes": self.loaded.notes,
        }


def num_parameters(model: nn.Module) -> int:
    """Weights of a model, each counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def load_teacher(name: str) -> Teacher:
    """The classifier of a run, of a folder in Hugging Face's layout, or of a hub name.

    Raises:
        CheckpointError: no classifier is there, or it cannot be used.
    """
    if is_cascade(name):
        raise CheckpointError(
            f"the teacher {name}: a cascade, expected one classifier. "
            f"Its large model is one: {name.rstrip('/')}/{LARGE}"
        )
    try:
        loaded = load_classifier(name)
    except CheckpointError as error:
        advice = "" if "train it" in str(error) else ". A teacher is a run of bertwright train that has finished"
        raise CheckpointError(f"the teacher {name}: {error}{advice}") from None
    return Teacher(name, loaded, weights_sha256(loaded.model.state_dict()))


def like_teacher(config: DistillConfig, settings: ClassifierSettings) -> DistillConfig:
    """``config`` with the teacher's way to read texts and labels where it says nothing of its own.

    Raises:
        UserError: a setting that the teacher's kind of labels, or its windows, do not go with.
    """
    given = config.model_fields_set
    update: dict[str, Any] = {}
    if not given & set(_READING[1:]) and config.pair_column is None:
        update = {name: getattr(settings, name) for name in _READING[1:]}
    if "max_length" not in given:
        update["max_length"] = settings.max_length
    if config.label_threshold is None and "label_kind" not in given:
        update |= {"label_threshold": settings.label_threshold, "hard_labels": settings.hard_labels}
    if settings.kind == "regression" and config.temperature != DistillConfig.model_fields["temperature"].default:
        raise UserError("--temperature softens probabilities, found a teacher of numbers (regression): leave it out")
    followed = config.model_copy(update=update)
    windows = settings.window_pooling == "max" or followed.window_pooling == "max"
    if config.match_hidden and windows:
        raise UserError(
            "--match-hidden needs one vector for each text, found --window-pooling max, which takes the largest logits "
            "of several. Leave out --match-hidden, or train the teacher with --window-pooling mean"
        )
    return followed


def check_match_hidden(config: TrainConfig, who: str, loaded: Loaded, long_texts: LongTexts, advice: str) -> None:
    """Make sure that ``loaded`` gives one vector for each text, if ``--match-hidden`` asks for them.

    Raises:
        UserError: it reads ``long_texts`` in windows, of whose vectors its classifier can make nothing.
    """
    if not isinstance(config, DistillConfig) or not config.match_hidden or long_texts != "windows":
        return
    if not loaded.model.windows_have_features:
        title = loaded.model.config.family.title
        raise UserError(
            f"--match-hidden with --long-texts windows needs a linear classifier, but {who} has one with a layer of "
            f"its own, as {title}'s. {advice}, or leave out --match-hidden"
        )


def check_labels(texts: LabelledTexts, teacher: Teacher) -> None:
    """Make sure that teacher and texts speak of the same labels.

    Raises:
        DataError: they do not.
    """
    settings = teacher.settings
    if texts.kind != settings.kind or texts.labels != settings.labels:
        raise DataError(
            f"the texts' labels are {_named(texts.labels)} ({texts.kind}), expected those of the teacher "
            f"{teacher.name}: {_named(settings.labels)} ({settings.kind})"
        )


def other_labels(error: DataError, teacher: Teacher) -> DataError:
    """``error``, of reading labels, with the labels of the teacher that were looked for."""
    settings = teacher.settings
    return DataError(
        f"{str(error).rstrip('.')}; the teacher {teacher.name} judges {_named(settings.labels)} ({settings.kind}), and "
        "--label-map THEIRS=OURS gives the files' labels its names"
    )


def _named(labels: tuple[str, ...]) -> str:
    return ", ".join(labels[:10]) + (" ..." if len(labels) > 10 else "")


class _Scored(StrictRecord):
    """What a file of scores is."""

    key: str = Field(pattern="^[0-9a-f]{64}$")
    teacher: str
    teacher_sha256: str
    what: What
    texts: int = Field(ge=1)
    width: int = Field(ge=1)
    seconds: float = Field(ge=0)
    file: FileRecord


class TeacherScores:
    """What a teacher says of texts, taken from ``folder`` or made and put there.

    Attributes:
        num_made, num_found: texts that it was asked about, and whose answers were on disk.
        seconds: that asking took.
    """

    def __init__(
        self, teacher: Teacher, folder: Path, machine: MachineSettings, dtype: str, reporter: Reporter
    ) -> None:
        """``dtype`` is the name of what is computed in, as ``machine`` asks for it or as it was chosen."""
        self.teacher, self.folder, self.reporter = teacher, folder, reporter
        self._machine, self._dtype = machine, dtype
        self._predictor: Predictor | None = None
        self.num_made = self.num_found = 0
        self.seconds = 0.0

    def lessons(self, sources: list[LabelledTexts], rows: np.ndarray, hidden: bool) -> Lessons:
        """What the teacher says of the ``rows`` (texts,) of all texts in ``sources``, one after the other.

        Raises:
            UserError: texts that it cannot read, such as single ones for a teacher of pairs.
        """
        logits: list[np.ndarray] = []
        vectors: list[np.ndarray] = []
        for texts in sources:
            ragged = self._token_ids(texts)
            for first in range(0, len(ragged), _PART_TEXTS):
                part = ragged.take(np.arange(first, min(first + _PART_TEXTS, len(ragged))))
                found = self._of_part(part, hidden)
                logits.append(found[0])
                if found[1] is not None:
                    vectors.append(found[1])
        self._say()
        self._let_go()
        asked = np.concatenate(logits)[rows] / np.float32(self.teacher.settings.temperature)
        return Lessons(asked, np.concatenate(vectors)[rows] if hidden else None)

    def _token_ids(self, texts: LabelledTexts) -> Ragged:
        loaded, name = self.teacher.loaded, self.teacher.name
        quiet = Reporter(quiet=True)
        try:
            return token_ids_of(texts, loaded.tokenizer, loaded.settings, name, quiet)
        except DataError:
            if texts.tokens is None:
                raise
        # token ids that came along are the student's; the texts came along too
        return token_ids_of(replace(texts, tokens=None), loaded.tokenizer, loaded.settings, name, quiet)

    def _of_part(self, part: Ragged, hidden: bool) -> tuple[np.ndarray, np.ndarray | None]:
        settings, model = self.teacher.settings, self.teacher.loaded.model
        widths: dict[What, int] = {"logits": len(settings.labels)}
        if hidden:
            widths["hidden"] = model.config.hidden_size
        key = self._key(part)
        kept = {what: self._read(key, what, len(part), width) for what, width in widths.items()}
        if all(array is not None for array in kept.values()):
            self.num_found += len(part)
            logits = kept["logits"]
            assert logits is not None
            return logits, kept.get("hidden")
        started = time.perf_counter()
        made = self._ask(part, hidden)
        seconds = time.perf_counter() - started
        self.num_made += len(part)
        self.seconds += seconds
        for what, array in made.items():
            self._write(key, what, array, seconds)
        return made["logits"], made.get("hidden")

    def _ask(self, part: Ragged, hidden: bool) -> dict[What, np.ndarray]:
        if self._predictor is None:
            self._predictor = Predictor.from_loaded(self.teacher.loaded, self._machine)
            self.reporter.say(f"the teacher is asked: {self._predictor.summary()}")
        predictor = self._predictor
        if not hidden:
            return {"logits": predictor.logits(part, self.reporter)}
        device, budget = predictor.device, predictor.token_budget
        features = compute_features(predictor.model, part, device, budget, self.reporter)
        with torch.inference_mode():
            logits = predictor.model.classifier(features).cpu().numpy()
        vectors = features.cpu().numpy()
        if not (np.isfinite(logits).all() and np.isfinite(vectors).all()):
            raise CheckpointError(f"the teacher {self.teacher.name}: its scores are not numbers; train it again")
        return {"logits": logits, "hidden": vectors.astype(np.float16)}

    def _let_go(self) -> None:
        """Leave the machine to the student: the teacher is not asked again."""
        if self._predictor is None:
            return
        model, self._predictor = self._predictor.model, None
        model.release_memory()
        model.encoder.fast = None
        model.to("cpu")
        model.release_memory()

    def _key(self, part: Ragged) -> str:
        settings = self.teacher.settings
        model = self.teacher.loaded.model
        how = {
            "format": 1,
            "teacher": self.teacher.weights_sha256,
            "config": model.config.model_dump(mode="json"),
            "reading": [settings.pooling, settings.window_pooling, settings.labels, settings.kind],
            "dtype": self._dtype,
        }
        digest = hashlib.sha256(json.dumps(how, sort_keys=True).encode())
        parts = (part.starts, part.window_starts, part.second_starts)
        for array in parts:
            digest.update(b"none" if array is None else np.ascontiguousarray(array, "<i8").tobytes())
        for _, ids in part.pieces():
            digest.update(np.ascontiguousarray(ids, "<i4").tobytes())
        return digest.hexdigest()

    def _path(self, key: str, what: What) -> Path:
        return self.folder / f"{key[:24]}{'' if what == 'logits' else '-hidden'}.npy"

    def _read(self, key: str, what: What, num_texts: int, width: int) -> np.ndarray | None:
        path = self._path(key, what)
        if not path.with_suffix(".json").exists():
            return None
        dtype = np.dtype(np.float32 if what == "logits" else np.float16)
        try:
            record = read_sealed(path.with_suffix(".json"), _Scored)
            if (record.key, record.what, record.texts, record.width) != (key, what, num_texts, width):
                raise Damaged("its record is of other scores")
            check_file(path, record.file)
            with open(path, "rb") as file:
                array = np.load(file, allow_pickle=False)
            if array.shape != (num_texts, width) or array.dtype != dtype or not np.isfinite(array).all():
                raise Damaged(f"{path.name} holds no such scores")
        except (Damaged, OSError, ValueError) as error:
            self.reporter.warn(f"{path}: {error}; the teacher is asked again")
            return None
        return array

    def _write(self, key: str, what: What, array: np.ndarray, seconds: float) -> None:
        """Put scores on disk. A training does not need them there as long as it is not stopped."""
        path = self._path(key, what)
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = write_file(path, buffer.getbuffer())
            teacher = self.teacher
            record = _Scored(
                key=key,
                teacher=teacher.name,
                teacher_sha256=teacher.weights_sha256,
                what=what,
                texts=len(array),
                width=array.shape[1],
                seconds=seconds,
                file=file,
            )
            write_sealed(path.with_suffix(".json"), record)
        except OSError as error:
            self.reporter.warn(f"{path}: not written ({error.strerror}); the training goes on")

    def _say(self) -> None:
        if self.num_made:
            self.reporter.say(
                f"the teacher scored {self.num_made:,} texts; its scores are kept in {self.folder}"
                + (f", where those of {self.num_found:,} others were" if self.num_found else "")
                + f" ({duration(self.seconds)})"
            )
        else:
            self.reporter.say(f"the teacher's scores of {self.num_found:,} texts are read from {self.folder}")


def check_scores_folder(config: TrainConfig) -> None:
    """Refuse, before any work, a place where no folder of scores can be.

    Raises:
        RunError: something else is there, or it cannot be made.
    """
    if not isinstance(config, DistillConfig) or config.teacher_scores is None:
        return
    folder = Path(config.teacher_scores)
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} exists and is no folder; --teacher-scores names the folder of a teacher's scores")
    runs.check_can_be_made(folder)


def known_test_metrics(teacher: str, test_sha256: str | None) -> dict[str, Any]:
    """The test metrics on record of the teacher's run, where they are of the same test files; else empty."""
    for folder in (Path(teacher), Path(teacher).parent):
        if not runs.is_run(folder):
            continue
        try:
            result = runs.open_run(folder).result
        except RunError:
            continue
        data = (result or {}).get("data")
        if result is not None and isinstance(data, dict) and test_sha256 and data.get("test_sha256") == test_sha256:
            return dict(result["metrics"].get("test") or {})
    return {}


def learnt_from_sha256(teacher: str) -> frozenset[str]:
    """The hashes of the files that the teacher's run learnt from, of each and of all of one kind; those on record."""
    for folder in (Path(teacher), Path(teacher).parent):
        if runs.is_run(folder):
            try:
                data = (runs.open_run(folder).result or {}).get("data")
            except RunError:
                continue
            data = data if isinstance(data, dict) else {}
            found = [data.get("train_sha256"), data.get("unlabelled_sha256")]
            for name in ("train_files_sha256", "unlabelled_files_sha256"):
                found += data[name] if isinstance(data.get(name), list) else []
            return frozenset(one for one in found if isinstance(one, str))
    return frozenset()

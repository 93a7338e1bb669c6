"""Settings of a training that follow from others, from the model or from the data; and as a record has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bertwright import runs
from bertwright.config.distill import DistillConfig
from bertwright.config.train import TrainConfig
from bertwright.data.columns import LabelledTexts
from bertwright.data.ragged import check_long_texts
from bertwright.errors import UserError
from bertwright.evaluation.judge import metric_to_choose_by
from bertwright.evaluation.metrics import check_metric_name
from bertwright.model.checkpoint import pooler_is_missing
from bertwright.model.encoder import SIZES, ModelConfig
from bertwright.progress import Reporter
from bertwright.tracking import tracker_names
from bertwright.training.optimizer import weight_decay_of
from bertwright.training.recipe import of_recipe

_DEFAULT_VALIDATION_SHARE = 0.2
# A student's state is chosen on validation texts even where there are test texts: it learns for many epochs.
_STUDENT_VALIDATION_SHARE = 0.1
# Of students; docs/LOG.md tells of the trainings. One that starts from nothing has farther to go.
_RANDOM_STUDENT_RATE, _STUDENT_RATE, _BASE_STUDENT_RATE = 5e-4, 2e-4, 5e-5
_BASE_HIDDEN_SIZE = 768
_BEST_FROZEN_RATE = 3e-2


def resolve_early(config: TrainConfig) -> TrainConfig:
    """Settle what depends on other settings alone."""
    config = config.model_copy(update=of_recipe(config))
    if "pooling" not in config.model_fields_set and pooler_is_missing(config.model):
        config = config.model_copy(update={"pooling": "mean"})
    check_pairs_or_long_texts(config, pairs=config.pair_column is not None)
    update: dict[str, Any] = {"track": tracker_names(config.track)}
    if config.validation_share is None:
        held_out = bool(config.test or config.validation)
        update["validation_share"] = 0.0 if held_out else _DEFAULT_VALIDATION_SHARE
        if isinstance(config, DistillConfig) and config.test and not config.validation:
            update["validation_share"] = _STUDENT_VALIDATION_SHARE
    if config.output is None:
        data = Path(config.train[0]).name.split(".")[0] or "data"
        model = Path(config.model).name or "model"
        frozen = "-frozen" if config.freeze_encoder else ""
        taught = "-distilled" if isinstance(config, DistillConfig) else ""
        path = Path("runs") / f"{data}-{model}{frozen}{taught}"
        update["output"] = str(path if config.resume else runs.free_name(path))
    if config.best_metric is not None:
        check_metric_name(config.best_metric)
    share = update.get("validation_share", config.validation_share)
    if not config.validation and not share:
        for name in ("patience", "best_metric"):
            if getattr(config, name) is not None:
                flag = "--" + name.replace("_", "-")
                raise UserError(f"{flag} needs validation texts: pass --validation FILE or --validation-share 0.1")
    return config.model_copy(update=update)


def check_pairs_or_long_texts(config: TrainConfig, pairs: bool) -> None:
    check_long_texts(
        config.max_length,
        config.long_texts,
        config.window_overlap,
        config.window_pooling,
        pairs=pairs,
        freeze_encoder=config.freeze_encoder,
    )


def resolve_late(
    config: TrainConfig, model: ModelConfig, validation: LabelledTexts | None, reporter: Reporter
) -> TrainConfig:
    """Settle what depends on the model and the data."""
    update: dict[str, Any] = {"weight_decay": weight_decay_of(config)}
    if config.learning_rate is None:
        narrow = model.hidden_size < _BASE_HIDDEN_SIZE
        if config.freeze_encoder:
            update["learning_rate"] = _BEST_FROZEN_RATE if config.recipe == "best" else 1e-2
        elif isinstance(config, DistillConfig):
            rate = _RANDOM_STUDENT_RATE if is_random(config.model) else _STUDENT_RATE
            update["learning_rate"] = rate if narrow else _BASE_STUDENT_RATE
        elif narrow:
            update["learning_rate"] = 1e-4
        else:
            update["learning_rate"] = 2e-5
    if validation is not None:
        metric, note = metric_to_choose_by(validation, config.best_metric)
        if note is not None:
            reporter.say(note)
        update["best_metric"] = metric
    return config.model_copy(update=update)


def is_random(model: str) -> bool:
    """Whether ``model`` is the name of a size, whose weights are drawn at random."""
    return model in SIZES and not Path(model).is_dir()


def dropouts_of(config: TrainConfig) -> dict[str, float]:
    """The model settings that the training's dropouts replace."""
    dropouts: dict[str, float] = {"attention_probs_dropout_prob": config.attention_dropout}
    if config.hidden_dropout is not None:
        dropouts["hidden_dropout_prob"] = config.hidden_dropout
    if config.classifier_dropout is not None:
        dropouts["classifier_dropout"] = config.classifier_dropout
    return dropouts


def rerunnable(config: TrainConfig) -> dict[str, Any]:
    """The resolved settings as they can be given again."""
    values = config.model_dump(mode="json", exclude_none=True, exclude={"overwrite", "resume"})
    if config.steps is not None:
        del values["epochs"]
    if config.validation:
        del values["validation_share"]
    return values

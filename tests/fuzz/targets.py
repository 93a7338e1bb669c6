"""All targets by name."""

from __future__ import annotations

from tests.fuzz import data_targets, model_targets, record_targets, serving_targets
from tests.fuzz.target import Target

TARGETS: dict[str, Target] = {
    target.name: target
    for module in (data_targets, model_targets, record_targets, serving_targets)
    for target in module.TARGETS
}

"""Fine-tune, compare and ship BERT text classifiers."""

from typing import Any

__version__ = "0.1.0"

# Where each entry point lives. They are imported when first used: importing bertwright loads no torch.
_ENTRY_POINTS = {
    "train": "bertwright.training.train",
    "distill": "bertwright.training.distill",
    "pretrain": "bertwright.training.pretrain",
    "evaluate": "bertwright.evaluation.evaluate",
    "predict": "bertwright.evaluation.predict",
    "bias": "bertwright.evaluation.measure_bias",
    "inspect": "bertwright.experiments.inspect_data",
    "tokenize": "bertwright.data.tokenize",
    "convert": "bertwright.model.convert",
    "load": "bertwright.evaluation.load_scorer",
    "open_run": "bertwright.runs",
    "list_runs": "bertwright.runs",
    "compare": "bertwright.experiments.compare",
    "report": "bertwright.reporting.act",
    "agreement": "bertwright.experiments.agreement",
    "sweep": "bertwright.experiments.sweep",
    "open_sweep": "bertwright.experiments.sweep",
    "cascade": "bertwright.shipping.cascade",
    "export_onnx": "bertwright.shipping.export_onnx",
    "export_lambda": "bertwright.shipping.aws_lambda.act",
    "push": "bertwright.shipping.push",
    "plan": "bertwright.benchmarking.plan",
    "check_plan": "bertwright.benchmarking.plan",
}

__all__ = ["__version__", *_ENTRY_POINTS]


def __getattr__(name: str) -> Any:
    if name not in _ENTRY_POINTS:
        raise AttributeError(f"module 'bertwright' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_ENTRY_POINTS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

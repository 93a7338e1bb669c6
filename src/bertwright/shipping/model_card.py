"""A model card: what a published classifier is, how good it is and how sure that is, where it must not be trusted."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from bertwright import __version__
from bertwright.config.push import PushSettings
from bertwright.model.classifier_settings import read_classifier_settings
from bertwright.reporting.material import Material, number_in, object_in
from bertwright.reporting.page import Page, Section
from bertwright.reporting.run_page import reproduction, run_page
from bertwright.reporting.tables import Table, table
from bertwright.reporting.visible import in_one_line
from bertwright.reporting.words import counted, percent
from bertwright.runs import Run

_METRICS = ("roc_auc", "accuracy", "macro_f1", "average_precision", "f1", "micro_f1", "log_loss", "spearman", "r2")
_ENVIRONMENT = ("bertwright", "torch", "python", "cpu", "gpu", "dtype")
# Settings that name files or folders.
_FILES = ("train", "validation", "test", "unlabelled", "teacher_scores", "output")
_SPLITS = (("train", "learnt from"), ("validation", "chosen by"), ("test", "judged on"))


def model_card(material: Material, name: str, settings: PushSettings) -> str:
    """The card in the hub's Markdown, its front matter in YAML. It holds no text
    of the data and no path of this machine.

    Args:
        material: of a finished run.
        name: the model's name on the hub.
    """
    material = replace(material, run=_without_paths(material.run))
    page = run_page(material)
    parts = [
        _front_matter(material, name, settings),
        f"# {_plain(name.rpartition('/')[2])}",
        *(_plain(sentence) for sentence in page.summary),
        f"Made with bertwright {__version__}.",
        "## Use",
        _use(name, material.run.model_folder),
        "## Data",
        _data(material),
        *_quality(page),
        *_groups(material, page),
        "## Limits",
        _limits(material, page),
        "## Training",
        *_tables(page, "resources"),
        _energy(material),
        "## Do it again",
        f"```\n{reproduction(material)[-1].text}\n```",
        _environment(material),
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _front_matter(material: Material, name: str, settings: PushSettings) -> str:
    """What the hub searches and shows beside the card (its model card specification)."""
    from huggingface_hub import EvalResult, ModelCardData

    metrics = [(key, value) for key in _METRICS if (value := number_in(material.metrics, key)) is not None]
    test = _files(material, material.split) if material.split else []
    data_set = ", ".join(test) or "held-out texts"
    results = [
        EvalResult("text-classification", data_set, data_set, key, value, dataset_split=material.split)
        for key, value in metrics
    ]
    model = str(material.run.settings.get("model") or "")
    card = ModelCardData(
        language=list(settings.language) or None,
        license=settings.license,
        library_name="bertwright",
        pipeline_tag="text-classification",
        tags=["bert", "text-classification"],
        base_model=_hub_name(model),
        metrics=[key for key, _ in metrics] or None,
        model_name=name if results else None,
        eval_results=results or None,
    )
    return f"---\n{card.to_yaml()}\n---"


def _hub_name(model: str) -> str | None:
    """The model's name on the hub, if it can be one; a folder's or a size's is none."""
    if model == "all-MiniLM-L6-v2":
        return "sentence-transformers/all-MiniLM-L6-v2"
    return model if model.count("/") == 1 and not model.startswith((".", "/", "~")) else None


def _use(name: str, folder: Path) -> str:
    ours = (
        f"```python\nimport bertwright\n\nclassifier = bertwright.load({name!r})\n"
        'classifier.predict(["a text"])\n```\n\n'
        f"or, for files, `bertwright predict {name} texts.csv --output scores.parquet`."
    )
    settings = read_classifier_settings(folder)
    if settings is None or settings.pooling != "first":
        return (
            f"{ours} `transformers` reads the encoder alone: this classifier takes the mean over all tokens, and "
            "for that `transformers` has no head: it would draw a random one."
        )
    missing = []
    if settings.kind != "regression" and settings.threshold != 0.5:
        missing.append(f"the threshold, which was tuned ({_threshold_words(settings.threshold)})")
    if settings.temperature != 1:
        missing.append(f"the temperature that calibrates the scores ({settings.temperature:.4g})")
    if settings.long_texts != "head":
        missing.append(f"how long texts are read ({settings.long_texts})")
    though = f", but knows nothing of {' and '.join(missing)}" if missing else ""
    return (
        f"{ours} `transformers` reads it too{though}:\n\n"
        f'```python\nfrom transformers import pipeline\n\npipeline("text-classification", {name!r})\n```'
    )


def _threshold_words(threshold: float | tuple[float, ...]) -> str:
    values = threshold if isinstance(threshold, tuple) else (threshold,)
    return ", ".join(f"{value:.4g}" for value in values)


def _data(material: Material) -> str:
    data = object_in(material.run.result or {}, "data")
    rows: list[list[Any]] = []
    for split, words in _SPLITS:
        number = number_in(data, f"{split}_texts")
        if number:
            digest = data.get(f"{split}_sha256")
            files = ", ".join(_files(material, split)) or "held out of the texts learnt from"
            rows.append([words, files, int(number), str(digest)[:16] if digest else None])
    labels = ", ".join(in_one_line(label, 40) for label in material.labels[:100])
    shown = table("data", "The texts", ["texts", "from", "number", "SHA-256 begins"], rows, sortable=False)
    sentences = [shown.markdown()] if rows else []
    if labels:
        sentences.append(
            f"{_plain('Labels' if material.kind != 'regression' else 'What is predicted')}: {_plain(labels)}."
        )
    shared = number_in(data, "shared_texts")
    if shared:
        sentences.append(f"{counted(int(shared), 'text')} judged on stood among those learnt from.")
    return "\n\n".join(sentences) or "Not on record."


def _files(material: Material, split: str) -> list[str]:
    found = material.run.settings.get(split)
    values = [found] if isinstance(found, str) else list(found or ())
    return [str(value) for value in values]


def _quality(page: Page) -> list[str]:
    found = _tables(page, "quality")
    return ["## How good it is", *found] if found else []


def _groups(material: Material, page: Page) -> list[str]:
    section = _section(page, "bias")
    found = _tables(page, "bias")
    if section is None or not found:
        return [
            "## Groups of people",
            "Not judged by groups of people: whether it scores harmless texts about some of them too high is not "
            "known. `bertwright bias` tells.",
        ]
    return ["## Groups of people", *map(_plain, (*_judged_groups(material), *section.prose)), *found]


_GROUPS_OF = {
    "columns": "Groups are what stands in columns of the data.",
    "terms": "Groups are the texts that hold one of some terms.",
    "built-in terms": "Groups are the texts that hold a term of a built-in list of words for people.",
}


def _judged_groups(material: Material) -> list[str]:
    """What is judged, on which texts, and what the groups are."""
    bias = object_in(material.judgement, "bias")
    judged_on = object_in(bias, "judged_on")
    label = in_one_line(str(bias.get("label")), 40)
    groups = _GROUPS_OF.get(str(judged_on.get("groups", "columns")), "")  # a training's own are of columns
    number, files = number_in(judged_on, "texts"), judged_on.get("files")
    where = "the texts judged on above"
    if isinstance(files, list) and files and number is not None:
        where = f"{counted(int(number), 'text')} of {', '.join(str(_name_only(file)) for file in files)}"
    return [f"Judged is the score of “{label}”, on {where}. {groups}".strip()]


def _section(page: Page, name: str) -> Section | None:
    return next((section for section in page.sections if section.name == name), None)


def _tables(page: Page, name: str) -> list[str]:
    section = _section(page, name)
    return [] if section is None else [found.markdown() for found in section.tables]


def _limits(material: Material, page: Page) -> str:
    data = object_in(material.run.result or {}, "data")
    settings = material.run.settings
    found = [*page.cautions]
    length = number_in(settings, "max_length")
    cut = number_in(data, "truncated_share")
    if length is not None and settings.get("long_texts", "head") != "windows":
        share = "" if cut is None else f"; {percent(cut)} of the texts here were longer"
        found.append(f"It reads {int(length):,} tokens of a text at most{share}.")
    found.append(
        "It was judged on texts like those it learnt from. On others (another time, another place, another language) "
        "it may be worse, and how much is not known."
    )
    if material.split is None:
        found.append("It was judged on no held-out texts: how good it is is not known.")
    found.append("It tells how likely a label is for a text, not whether a person meant it so.")
    return "\n".join(f"- {_plain(sentence)}" for sentence in found)


def _energy(material: Material) -> str:
    energy = object_in(material.run.result or {}, "energy")
    joules = number_in(energy, "joules")
    if joules is None:
        return "Energy: not measured."
    source = _plain(str(energy.get("source")))
    return f"Energy of the whole machine meanwhile, by {source}: {joules / 3.6e6:.4f} kWh."


def _environment(material: Material) -> str:
    environment = material.run.environment
    rows = [[name, str(environment[name])] for name in _ENVIRONMENT if environment.get(name)]
    if not rows:
        return ""
    return table("environment", "Versions and machine", ["what", "value"], rows, sortable=False).markdown()


def _without_paths(run: Run) -> Run:
    """The run with the folders of this machine cut from its settings: only names of files are for others."""
    settings = dict(run.settings)
    for key in _FILES:
        settings[key] = _name_only(settings.get(key))
    result = run.result or {}
    sources = {
        "model": result.get("model"),
        "teacher": object_in(result, "teacher").get("model"),
        "tokenizer": None,  # where it came from is not on record: owner/name may be a folder too
    }
    for key, source in sources.items():
        if not str(source).endswith(" from the hub"):
            settings[key] = _name_only(settings.get(key))
    return replace(run, settings=settings)


def _name_only(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_name_only(item) for item in value]
    if isinstance(value, str) and not value.startswith("hub:"):
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    return value


def _plain(text: str) -> str:
    """In one line, without effect in Markdown."""
    return Table("", text, (), (), ()).markdown().splitlines()[0].removeprefix("**").removesuffix("**")

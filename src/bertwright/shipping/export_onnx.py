"""The act of exporting a classifier as an ONNX graph, with a certificate of what it loses."""

from __future__ import annotations

import hashlib
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from bertwright import __version__, runs
from bertwright.config.base import build
from bertwright.config.export import ExportOnnxConfig, GraphDtype, ParitySettings
from bertwright.config.parts import ScoringMachineSettings
from bertwright.data.ragged import Ragged
from bertwright.data.tokenize import token_ids_of
from bertwright.errors import RunError, UserError
from bertwright.evaluation.cascade import LARGE, SMALL, Cascade, is_cascade, read_cascade_manifest, write_manifest
from bertwright.evaluation.evaluate import keep_apart
from bertwright.evaluation.graph_predictor import GraphPredictor, is_exported
from bertwright.evaluation.graph_session import GRAPH
from bertwright.evaluation.load_scorer import load_classifier_scorer
from bertwright.evaluation.predictor import Predictor
from bertwright.evaluation.score_texts import texts_or_pairs
from bertwright.model.checkpoint import Loaded, hugging_face_config, load_classifier
from bertwright.model.classifier_settings import SETTINGS
from bertwright.model.onnx import save_graph
from bertwright.model.onnx_int8 import quantize_matrices
from bertwright.progress import Reporter, duration
from bertwright.shipping.parity import difference_record, loss_in_words, parity_record, texts_to_compare

PARITY = "parity.json"
# So many texts are scored alone too, to tell what their company does to them.
_ALONE = 64
_FLOAT32 = ScoringMachineSettings(device="cpu", dtype="float32")


def export_onnx(run: str | Path, output: str | Path, *, quiet: bool = False, **settings: Any) -> dict[str, Any]:
    """Write a run's classifier as an ONNX graph into the new folder ``output``; returns its certificate.

    Of a cascade, both classifiers. ``settings`` are those of ``bertwright export onnx``. ``bertwright.load``,
    ``predict`` and ``evaluate`` take the folder where they take a run, and need no torch for it.

    Raises:
        UserError: bad settings, a run without a classifier, an output in the way, nothing to compare on, or a graph
            that loses more than ``max_loss`` without ``force``; then nothing is written.
    """
    config = build(ExportOnnxConfig, {**settings, "run": run, "output": output})
    return run_onnx_export(config, Reporter(quiet=quiet, results=not quiet))


def run_onnx_export(config: ExportOnnxConfig, reporter: Reporter) -> dict[str, Any]:
    """Write the graph beside its place, compare, and rename; shows and returns the certificate."""
    output = Path(config.output)
    check_output(output, config.run, config.overwrite, is_export, "an exported graph")
    with runs.whole_folder(output, config.overwrite, is_export) as partial:
        record = write_certified_graph(partial, config.run, config.dtype, config, reporter)
    show_certificate(record, reporter)
    reporter.say(f"graph: {output}")
    return {"output": str(output), **record}


def is_export(path: str | Path) -> bool:
    """Whether ``path`` is a folder that this act made: a graph, or a cascade of two."""
    return is_exported(path) or (is_cascade(path) and all(is_exported(Path(path) / name) for name in (SMALL, LARGE)))


def check_output(output: Path, run: str, overwrite: bool, is_ours: Any, what: str) -> None:
    """Refuse, before any work, an output in the way, or a run that cannot be exported.

    Args:
        is_ours: whether a folder is ``what`` this act writes, and may be replaced.

    Raises:
        UserError: so it is.
    """
    if is_export(run):
        raise UserError(f"{run}: an exported graph already; name the run that it was exported from")
    keep_apart(output, run, "exported")
    if output.exists():
        if not overwrite:
            raise RunError(f"{output} exists; pass another folder, or --overwrite to replace it")
        if not is_ours(output):
            raise RunError(f"{output} exists and is not {what}; --overwrite replaces such folders only")
    runs.check_can_be_made(output)


def write_certified_graph(
    folder: Path, run: str, dtype: GraphDtype, settings: ParitySettings, reporter: Reporter
) -> dict[str, Any]:
    """Write the classifier of ``run`` as a graph into the new ``folder``, and return what parity.json says of it.

    Of a cascade, both classifiers into folders of their own; what is compared is what the cascade makes of texts.

    Raises:
        UserError: as :func:`export_onnx`.
    """
    if is_cascade(run):
        return _write_certified_cascade(folder, run, dtype, settings, reporter)
    loaded = load_classifier(run)
    compared = texts_to_compare(run, loaded.settings, settings, reporter)
    started = time.perf_counter()
    write_graph(folder, loaded, dtype)
    reporter.say(f"graph in {dtype} written in {duration(time.perf_counter() - started)}")
    exact = Predictor.from_loaded(loaded, _FLOAT32)
    graph = GraphPredictor.from_folder(folder)
    ragged = token_ids_of(compared.texts, exact.tokenizer, exact.settings, run, reporter)
    logits = exact.logits(ragged, reporter), graph.logits(ragged, reporter)
    scores = exact.probabilities(logits[0]), graph.probabilities(logits[1])
    record = {
        **_head(run, dtype, graph),
        "graph_bytes": graph_bytes(folder),
        "graph_sha256": _sha256(folder / GRAPH),
        **parity_record(compared, loaded.settings, scores, settings.max_loss),
        "logits": difference_record(*logits),
        "alone": _alone(graph, ragged, logits[1]),
    }
    return _certified(folder, record, settings)


def _write_certified_cascade(
    folder: Path, run: str, dtype: GraphDtype, settings: ParitySettings, reporter: Reporter
) -> dict[str, Any]:
    """As :func:`write_certified_graph`, of a cascade. What of it is a graph already is taken as it is."""
    if not settings.data:
        raise UserError(
            f"{run}: a cascade keeps no held-out texts to compare on; name a file of labelled texts: --data"
        )
    manifest = read_cascade_manifest(Path(run).expanduser())
    small, large = (
        load_classifier_scorer(path, None if is_exported(path) else _FLOAT32)
        for path in (f"{run}/{SMALL}", f"{run}/{LARGE}")
    )
    exact = Cascade(small, large, manifest, run)
    compared = texts_to_compare(run, exact.settings, settings, reporter)
    started = time.perf_counter()
    parts: dict[str, GraphPredictor] = {}
    for name in (SMALL, LARGE):
        if is_exported(f"{run}/{name}"):
            shutil.copytree(Path(run, name).expanduser(), folder / name)
        else:
            write_graph(folder / name, load_classifier(f"{run}/{name}"), dtype)
        parts[name] = GraphPredictor.from_folder(folder / name)
    write_manifest(folder, manifest)
    reporter.say(f"graphs in {dtype} written in {duration(time.perf_counter() - started)}")
    graph = Cascade(parts[SMALL], parts[LARGE], manifest, str(folder))
    texts = texts_or_pairs(compared.texts)
    scores = exact.score(texts), graph.score(texts)
    record = {
        **_head(run, dtype, parts[LARGE]),
        "graph_bytes": sum(graph_bytes(folder / name) for name in parts),
        "graph_sha256": {name: _sha256(folder / name / GRAPH) for name in parts},
        **parity_record(compared, exact.settings, scores, settings.max_loss),
        "scores": difference_record(*scores),
        "deferred_texts": graph.num_deferred,
    }
    return _certified(folder, record, settings)


def _head(run: str, dtype: GraphDtype, graph: GraphPredictor) -> dict[str, Any]:
    return {
        "format": 1,
        "bertwright": __version__,
        "run": run,
        "dtype": dtype,
        "onnxruntime": graph.session.version,
    }


def _certified(folder: Path, record: dict[str, Any], settings: ParitySettings) -> dict[str, Any]:
    """Write ``record`` as the certificate, and return it.

    Raises:
        UserError: the loss that it tells is too much.
    """
    record["forced"] = settings.force
    metric, dtype = record["metric"], record["dtype"]
    if not record["within_max_loss"] and not settings.force:
        raise UserError(
            f"the graph in {dtype} loses {loss_in_words(metric)} ({metric['float32']:.4f} to "
            f"{metric['exported']:.4f} on {record['texts']:,} texts), expected at most --max-loss "
            f"{settings.max_loss:g}: nothing is written. Export in float32, allow more, or pass --force"
        )
    runs.write_json(folder / PARITY, record)
    return record


def write_graph(folder: Path, loaded: Loaded, dtype: GraphDtype) -> None:
    """Write the graph and all that it needs into the new ``folder``; ``loaded`` is as it is read, in float32.

    Raises:
        UserError: the packages onnx and onnxruntime are not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model, settings = loaded.model, loaded.settings
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    segments = settings.pairs and loaded.tokenizer.check_pairs().segments and model.config.type_vocab_size > 1
    how = (model.config, state, settings.pooling)
    if dtype == "int8":
        whole = folder / "float32.onnx"
        save_graph(whole, *how, segments=segments, int8_tokens=True)
        quantize_matrices(whole, folder / GRAPH)
        for left in folder.glob("float32.onnx*"):
            left.unlink()
    else:
        save_graph(folder / GRAPH, *how, segments=segments)
    runs.write_json(folder / "config.json", hugging_face_config(model.config, settings, with_head=True))
    runs.write_json(folder / SETTINGS, settings.model_dump(mode="json"))
    loaded.tokenizer.save(folder)


def graph_bytes(folder: Path) -> int:
    """Bytes of the graph, and of its weights where they lie in a file beside."""
    return sum(path.stat().st_size for path in folder.glob(f"{GRAPH}*"))


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _alone(graph: GraphPredictor, ragged: Ragged, together: np.ndarray) -> dict[str, Any]:
    """How far the logits of some texts move when they are scored alone, not with all others (``together``)."""
    rows = np.unique(np.linspace(0, len(ragged) - 1, min(_ALONE, len(ragged))).astype(np.int64))
    found = np.concatenate([graph.logits(ragged.take(rows[i : i + 1])) for i in range(len(rows))])
    differences = np.abs(found.astype(np.float64) - together[rows])
    return {"texts": len(rows), "largest_difference": float(differences.max())}


def show_certificate(record: dict[str, Any], reporter: Reporter) -> None:
    """The certificate, and what must not be missed of it."""
    from rich.text import Text

    reporter.show(Text("\n".join(certificate_lines(record)), no_wrap=True, overflow="ignore"))
    metric = record["metric"]
    if not record["within_max_loss"]:
        reporter.warn(
            f"the graph loses {loss_in_words(metric)}, more than --max-loss {record['max_loss']:g}; "
            "written because of --force"
        )
    elif metric["loss_at_most"] is None or metric["loss_at_most"] > record["max_loss"]:
        reporter.warn(
            f"these {record['texts']:,} texts do not rule out a loss of more than --max-loss {record['max_loss']:g}; "
            "name more of them with --data to be sure"
        )


def certificate_lines(record: dict[str, Any]) -> list[str]:
    metric, flips = record["metric"], record["label_flips"]
    some = "" if record["texts"] == record["texts_available"] else f" of {record['texts_available']:,}, drawn by chance"
    interval = "no interval can be told"
    if metric["interval"] is not None:
        low, high = metric["interval"]
        interval = f"{metric['confidence']:.0%} interval {low:+.4f} to {high:+.4f}"
        interval += f", {metric['method']}" if metric["method"] else ""
    lines = [
        ("graph", f"{record['dtype']}", f"{record['graph_bytes']:,} bytes"),
        ("texts", f"{record['texts']:,}", f"{record['texts_from']}{some}"),
    ]
    if "deferred_texts" in record:
        lines.append(("deferred", f"{record['deferred_texts']:,}", "texts that went to the large model"))
    for name in ("logits", "scores"):
        if name in record:
            lines.append((name, f"{record[name]['largest_difference']:.2g}", "largest difference from float32"))
    if "alone" in record:
        alone = record["alone"]
        words = f"largest difference of logits, a text alone or in company ({alone['texts']:,} texts)"
        lines.append(("alone", f"{alone['largest_difference']:.2g}", words))
    if flips is not None:
        lines.append(("flips", f"{flips['texts']:,}", f"texts that are decided otherwise ({flips['share']:.2%})"))
    change = f"{metric['change']:+.4f}"
    words = f"from {metric['float32']:.4f} to {metric['exported']:.4f}; {interval}"
    lines.append((metric["name"], change, words))
    return [f"{name:<18} {value:>10}   {words}" for name, value, words in lines]

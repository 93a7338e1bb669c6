"""The act of packing a classifier for AWS Lambda."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bertwright import __version__, runs
from bertwright.config.base import build
from bertwright.config.export import Architecture, ExportLambdaConfig
from bertwright.evaluation.cascade import LARGE, is_cascade
from bertwright.model.classifier_settings import read_classifier_settings
from bertwright.progress import Reporter
from bertwright.shipping.aws_lambda import bundle
from bertwright.shipping.aws_lambda.pruning import LeftOut, prune
from bertwright.shipping.aws_lambda.wheels import cannot_start, fetch_wheels, find_wheels, unpack, wheel_versions
from bertwright.shipping.export_onnx import PARITY, check_output, show_certificate, write_certified_graph

_RECORD = "bundle.json"
_FUNCTION, _MODEL = "function.zip", "layer-model.zip"
_CONDITIONS: dict[Architecture, str] = {"x86_64": "IsX86", "arm64": "IsArm64"}  # of the template
_MACHINES: dict[Architecture, str] = {"x86_64": "amd64", "arm64": "arm64"}  # by Docker's names


def export_lambda(run: str | Path, output: str | Path, *, quiet: bool = False, **settings: Any) -> dict[str, Any]:
    """Pack a run's classifier for AWS Lambda into the new folder ``output``; returns what bundle.json says of it.

    ``settings`` are those of ``bertwright export lambda``.

    Raises:
        UserError: as :func:`bertwright.export_onnx`; also wheels that cannot be had, and more bytes than AWS takes.
    """
    config = build(ExportLambdaConfig, {**settings, "run": run, "output": output})
    return run_lambda_export(config, Reporter(quiet=quiet, results=not quiet))


def is_bundle(folder: Path) -> bool:
    """Whether this act made ``folder``."""
    return all((folder / name).is_file() for name in (_RECORD, _FUNCTION, _MODEL))


def run_lambda_export(config: ExportLambdaConfig, reporter: Reporter) -> dict[str, Any]:
    """Export, compare, fetch, prune, weigh and zip beside the place, and rename; shows and returns the record."""
    output = Path(config.output)
    check_output(output, config.run, config.overwrite, is_bundle, "a bundle for Lambda")
    with tempfile.TemporaryDirectory(prefix="bertwright-lambda-") as room:
        work = Path(room)
        runtimes = [_runtime(architecture, config, work, reporter) for architecture in config.architecture]
        warning = cannot_start([name for runtime in runtimes for name in runtime.wheels], config.python_version)
        if warning is not None:
            reporter.warn(warning)
        certificate = write_certified_graph(work / "exported", config.run, config.dtype, config, reporter)
        bundle.write_function(work / "function")
        bundle.write_model(work / "exported", work / "model")
        reasons = [
            bundle.compile_modules(folder, config.python_version) for folder in work.glob("*") if folder.is_dir()
        ]
        folders = {_FUNCTION: work / "function", _MODEL: work / "model"}
        folders |= {runtime.zip_name: runtime.folder for runtime in runtimes}
        sizes = {name: bundle.unzipped_bytes(folder) for name, folder in folders.items()}
        together: dict[str, list[tuple[str, int]]] = {
            runtime.architecture: [(name, sizes[name]) for name in (_FUNCTION, _MODEL, runtime.zip_name)]
            for runtime in runtimes
        }
        bundle.check_budget(together)
        for reason in dict.fromkeys(filter(None, reasons)):
            reporter.say(reason)
        with runs.whole_folder(output, config.overwrite, is_bundle) as partial:
            partial.mkdir(parents=True)
            parts = [bundle.write_zip(folder, partial / name) for name, folder in folders.items()]
            record = _record(config, certificate, runtimes, parts)
            _write_texts(partial, config, work / "exported")
            runs.write_json(partial / PARITY, certificate)
            runs.write_json(partial / _RECORD, record)
    show_certificate(certificate, reporter)
    _show(record, reporter)
    reporter.say(f"bundle: {output}; how to deploy it: {output / 'README.md'}")
    return {"output": str(output), **record, "parity": certificate}


@dataclass(frozen=True)
class _Runtime:
    """The packages for one architecture, as they will lie in /opt."""

    architecture: Architecture
    folder: Path
    wheels: tuple[str, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def zip_name(self) -> str:
        return f"layer-runtime-{self.architecture}.zip"


def _runtime(architecture: Architecture, config: ExportLambdaConfig, work: Path, reporter: Reporter) -> _Runtime:
    folder = work / f"runtime-{architecture}"
    packages = folder / "python"
    packages.mkdir(parents=True)
    if config.wheels is None:
        versions = wheel_versions()
        named = ", ".join(f"{name} {number}" for name, number in versions.items())
        reporter.say(f"fetching {named} for {architecture}, Python {config.python_version}")
        source = work / f"wheels-{architecture}"
        source.mkdir()
        fetch_wheels(source, architecture, config.python_version, versions)
    else:
        source = Path(config.wheels)
    found = find_wheels(source, architecture, config.python_version)
    for wheel in found.values():
        unpack(wheel, packages)
    return _Runtime(architecture, folder, tuple(path.name for path in found.values()), tuple(prune(packages)))


def _record(
    config: ExportLambdaConfig, certificate: dict[str, Any], runtimes: list[_Runtime], parts: list[bundle.Part]
) -> dict[str, Any]:
    sizes = {part.name: part.unzipped_bytes for part in parts}
    return {
        "format": 1,
        "bertwright": __version__,
        "run": config.run,
        "dtype": config.dtype,
        "graph_bytes": certificate["graph_bytes"],
        "python_version": config.python_version,
        "limit_bytes": bundle.MOST_UNZIPPED_BYTES,
        "parts": [asdict(part) for part in parts],
        "architectures": [
            {
                "architecture": runtime.architecture,
                "unzipped_bytes": sizes[_FUNCTION] + sizes[_MODEL] + sizes[runtime.zip_name],
                "wheels": list(runtime.wheels),
                "left_out": [asdict(left) for left in runtime.left_out],
            }
            for runtime in runtimes
        ],
    }


def _write_texts(folder: Path, config: ExportLambdaConfig, exported: Path) -> None:
    """The template, the Dockerfile and the page that says what to do with all of it."""
    settings = read_classifier_settings(exported / LARGE if is_cascade(exported) else exported)
    assert settings is not None
    architectures, python = config.architecture, config.python_version
    first = architectures[0]
    layers, conditions = [], ["  IsArm64: !Equals [!Ref Architecture, arm64]"] if len(architectures) > 1 else []
    names = {
        architecture: f"RuntimeLayer{architecture.replace('_', '').capitalize()}" for architecture in architectures
    }
    if len(architectures) > 1:
        conditions.append("  IsX86: !Not [!Condition IsArm64]")
    for architecture in architectures:
        layers += [
            f"  {names[architecture]}:",
            "    Type: AWS::Serverless::LayerVersion",
            *(
                [f"    Condition: {'IsArm64' if architecture == 'arm64' else 'IsX86'}"]
                if len(architectures) > 1
                else []
            ),
            "    Properties:",
            "      Description: ONNX Runtime, NumPy and tokenizers",
            f"      ContentUri: layer-runtime-{architecture}.zip",
            f"      CompatibleRuntimes: [python{python}]",
            f"      CompatibleArchitectures: [{architecture}]",
            "      RetentionPolicy: Delete",
        ]
    chosen = f"!Ref {names[first]}"
    if len(architectures) > 1:
        chosen = f"!If [IsArm64, !Ref {names['arm64']}, !Ref {names['x86_64']}]"
    rows = [
        f"| `layer-runtime-{architecture}.zip` | a layer: ONNX Runtime, NumPy and tokenizers for {architecture} |"
        for architecture in architectures
    ]
    listed = ", ".join(settings.labels)
    shown = "".join(letter for letter in listed if letter.isprintable() and letter not in "@`:#|<>[]{}\\\"'")[:100]
    values = {
        "labels": shown,
        "version": __version__,
        "run": config.run.replace("`", "'"),
        "dtype": config.dtype,
        "python": python,
        "architecture": first,
        "architectures": ", ".join(architectures),
        "machine": _MACHINES[first],
        "conditions": "\n".join(conditions) + "\n" if conditions else "",
        "runtime_layers": "\n".join(layers) + "\n",
        "runtime_layer": chosen,
        "layer_rows": "\n".join(rows),
        "example": json.dumps(["a question", "an answer"] if settings.pairs else "some text"),
    }
    for name in ("template.yaml", "Dockerfile", "README.md"):
        runs.write_text(folder / name, bundle.template(name, **values))


def _show(record: dict[str, Any], reporter: Reporter) -> None:
    from rich.text import Text

    reporter.show(Text("\n".join(budget_lines(record)), no_wrap=True, overflow="ignore"))


def budget_lines(record: dict[str, Any]) -> list[str]:
    """The bytes of a bundle, part by part, and of what was left out, rule by rule."""
    parts = {part["name"]: part for part in record["parts"]}
    lines, limit = [], record["limit_bytes"]
    for found in record["architectures"]:
        architecture, together = found["architecture"], found["unzipped_bytes"]
        lines += ["", f"{'bytes unzipped':>14}   {architecture}, Python {record['python_version']}"]
        for name in (_FUNCTION, _MODEL, f"layer-runtime-{architecture}.zip"):
            part = parts[name]
            lines.append(f"{part['unzipped_bytes']:>14,}   {name} ({part['zip_bytes']:,} zipped)")
        lines.append(
            f"{together:>14,}   together: {together / limit:.0%} of the {limit:,} that AWS takes, {limit - together:,} "
            "are left"
        )
        lines.append(f"{'bytes left out':>14}")
        lines += [f"{left['num_bytes']:>14,}   {left['reason']}" for left in found["left_out"]]
    return lines

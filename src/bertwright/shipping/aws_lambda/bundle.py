"""The parts of a bundle for AWS Lambda: folders as they lie there when unpacked, their bytes, and zip files of them."""

from __future__ import annotations

import importlib.resources
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import bertwright
from bertwright.errors import UserError
from bertwright.evaluation.cascade import LARGE, SMALL

MOST_UNZIPPED_BYTES = 262_144_000
"""Of the function and all its layers together (AWS Lambda Developer Guide, "Lambda quotas": 250 MB, of 2^20 bytes)."""

# What the function imports of bertwright, and nothing else.
_MODULES = (
    "__init__.py",
    "cpus.py",
    "errors.py",
    "data/__init__.py",
    "data/packing.py",
    "evaluation/__init__.py",
    "evaluation/deferral.py",
    "evaluation/graph_session.py",
    "evaluation/metrics.py",
    "evaluation/predictions.py",
    "evaluation/scores.py",
    "shipping/__init__.py",
    "shipping/aws_lambda/__init__.py",
    "shipping/aws_lambda/cascade.py",
    "shipping/aws_lambda/classifier.py",
    "shipping/aws_lambda/events.py",
    "shipping/aws_lambda/handler.py",
)
# Of an exported folder, what the function reads, and the certificate; of a cascade also in the folders of both models.
_MODEL_FILES = ("model.onnx", "model.onnx.data", "tokenizer.json", "bertwright.json", "parity.json", "cascade.json")
_OLDEST_TIME = (1980, 1, 1, 0, 0, 0)  # of a zip file: equal contents make equal files


@dataclass(frozen=True)
class Part:
    """A zip file of the bundle: its name, its bytes unzipped, and its own."""

    name: str
    unzipped_bytes: int
    zip_bytes: int


def write_function(folder: Path) -> None:
    """The function's own code, into the new ``folder``."""
    source = Path(bertwright.__file__).parent
    for name in _MODULES:
        target = folder / "bertwright" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target)
    (folder / "lambda_function.py").write_text(template("lambda_function.py"), encoding="utf-8")


def write_model(exported: Path, folder: Path) -> None:
    """The files of an ``exported`` classifier that the function reads, into the new ``folder``, for /opt."""
    for part in ("", SMALL, LARGE):
        for name in _MODEL_FILES:
            if (exported / part / name).is_file():
                (folder / "model" / part).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(exported / part / name, folder / "model" / part / name)


def compile_modules(folder: Path, python_version: str) -> str | None:
    """Compile the modules in ``folder`` for that Python, so that no cold start has to; why not, if it is not done.

    Their source stays beside them, and is not compared with: its times are those of a zip file.
    """
    interpreter = _interpreter(python_version)
    if interpreter is None:
        return f"there is no Python {python_version} here to compile modules with: each cold start will compile them"
    command = [interpreter, "-I", "-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash"]
    done = subprocess.run([*command, "-s", str(folder), str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        return f"{interpreter} cannot compile all modules: each cold start will compile them ({done.stdout[-100:]!r})"
    return None


def _interpreter(python_version: str) -> str | None:
    """A Python of this version: this one, or one on the search path that can be run."""
    for candidate in (sys.executable, shutil.which(f"python{python_version}")):
        if candidate is None:
            continue
        asked = [candidate, "-I", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        if subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() == python_version:
            return candidate
    return None


def unzipped_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def write_zip(folder: Path, path: Path) -> Part:
    """The content of ``folder`` as the zip file ``path``; equal contents make equal files."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                info = zipfile.ZipInfo(file.relative_to(folder).as_posix(), _OLDEST_TIME)
                info.compress_type = zipfile.ZIP_DEFLATED
                info.external_attr = (0o100755 if ".so" in file.name else 0o100644) << 16  # all may read, as AWS asks
                archive.writestr(info, file.read_bytes())
    return Part(path.name, unzipped_bytes(folder), path.stat().st_size)


def check_budget(parts: Mapping[str, Sequence[tuple[str, int]]]) -> None:
    """Refuse a bundle that AWS would refuse.

    Args:
        parts: by architecture, the names of the parts that are unpacked together and their bytes.

    Raises:
        UserError: they are more than :data:`MOST_UNZIPPED_BYTES`.
    """
    for architecture, named in parts.items():
        together = sum(size for _, size in named)
        if together > MOST_UNZIPPED_BYTES:
            listed = ", ".join(f"{name} {size:,}" for name, size in named)
            raise UserError(
                f"the bundle for {architecture} has {together:,} bytes unzipped ({listed}), expected at most "
                f"{MOST_UNZIPPED_BYTES:,}, AWS's limit. Take --dtype int8, or a smaller model"
            )


def template(name: str, **values: str) -> str:
    """A template of this package, with ``values`` in the place of @NAMES@."""
    resource = importlib.resources.files("bertwright.shipping.aws_lambda") / "templates" / name
    text = resource.read_text(encoding="utf-8")
    for key, value in values.items():
        text = text.replace(f"@{key.upper()}@", value)
    return text

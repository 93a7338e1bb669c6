"""What the installed packages hold that a Lambda function never loads, by rules that are written out.

That the rest still runs is shown by a test that runs it with nothing else importable.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Rule:
    """Files that are left out: those whose path, from the folder of packages on, matches."""

    reason: str
    pattern: str
    unless_linked: bool = False


RULES = (
    Rule(
        "onnxruntime: its library for C, which the module for Python holds once more",
        r"onnxruntime/capi/libonnxruntime\.so[.\d]*",
        unless_linked=True,
    ),
    Rule("onnxruntime: tools that change models", r"onnxruntime/(transformers|quantization|tools|datasets|backend)/.*"),
    Rule("numpy: tests", r"numpy/(.*/)?tests/.*"),
    Rule("numpy: headers and libraries to compile against", r"numpy/.*(/include/.*|\.(a|h|pxd|c|cpp|pkg|ini))"),
    Rule("numpy: a compiler of Fortran, and what tests are written with", r"numpy/(f2py|testing|_pyinstaller)/.*"),
    Rule("numpy: compiled tests", r"numpy/.*/_\w*tests?\.[\w-]+\.so"),
    Rule("tokenizers: tools that show texts", r"tokenizers/tools/.*"),
    Rule("types for checkers, which Python does not read", r".*(\.pyi|/py\.typed)"),
    Rule(
        "records of the installer",
        r"[^/]+\.dist-info/(RECORD|WHEEL|INSTALLER|REQUESTED|entry_points\.txt|sboms/.*|top_level\.txt)",
    ),
)
"""Licences and notices are kept: they belong to what is given away."""


@dataclass(frozen=True)
class LeftOut:
    """What one rule left out."""

    reason: str
    num_files: int
    num_bytes: int


def prune(folder: Path) -> list[LeftOut]:
    """Delete from ``folder``, where packages lie as they are installed, what :data:`RULES` say; what that was.

    A library that a file which stays links to is kept, whatever the rules say.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    matched = {path: _rule_of(path.relative_to(folder).as_posix()) for path in files}
    linked = _names_in_libraries([path for path, rule in matched.items() if rule is None])
    found: dict[Rule, list[int]] = {rule: [] for rule in RULES}
    for path, rule in matched.items():
        if rule is None or (
            rule.unless_linked and any(name.startswith(path.stem.partition(".so")[0] + ".so") for name in linked)
        ):
            continue
        found[rule].append(path.stat().st_size)
        path.unlink()
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    return [LeftOut(rule.reason, len(sizes), sum(sizes)) for rule, sizes in found.items() if sizes]


def _rule_of(path: str) -> Rule | None:
    return next((rule for rule in RULES if re.fullmatch(rule.pattern, path)), None)


def _names_in_libraries(paths: list[Path]) -> set[str]:
    """Names of libraries that stand in the compiled modules among ``paths``, as those they link to do."""
    names: set[str] = set()
    for path in paths:
        if ".so" in path.name:
            names |= {found.decode() for found in re.findall(rb"lib[\w+-]+\.so[.\d]*", path.read_bytes())}
    return names

"""The packages that a Lambda function needs, as wheels for AWS's machines: fetched with pip, or given."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path, PurePosixPath

from bertwright.config.export import Architecture
from bertwright.errors import UserError

PACKAGES = ("onnxruntime", "numpy", "tokenizers")
"""What the function imports. What these want besides (protobuf, flatbuffers, ...) they import for other work alone."""

_MACHINES: dict[Architecture, str] = {"x86_64": "x86_64", "arm64": "aarch64"}
# At AWS Python 3.12 and later run on Amazon Linux 2023 with glibc 2.34, older ones on Amazon Linux 2 with 2.26 (AWS
# Lambda Developer Guide, "Lambda runtimes"). pip takes each older one by its own name.
_NEWEST_GLIBC, _GLIBC_BEFORE_3_12, _OLDEST_GLIBC = 34, 26, 17


def wheel_versions() -> dict[str, str]:
    """The versions that are installed here, with which the certificate was made."""
    return {name: version(name) for name in PACKAGES}


def fetch_wheels(folder: Path, architecture: Architecture, python_version: str, versions: Mapping[str, str]) -> None:
    """Download the wheels of ``versions`` into ``folder`` with pip, from the index that pip is set to use.

    Raises:
        UserError: pip is missing, cannot reach the index, or finds no such wheel.
    """
    machine = _MACHINES[architecture]
    glibcs = range(_NEWEST_GLIBC, _OLDEST_GLIBC - 1, -1)
    platforms = [*(f"manylinux_2_{minor}_{machine}" for minor in glibcs), f"manylinux2014_{machine}"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", python_version]
    command += [f"--platform={platform}" for platform in platforms]
    command += ["--dest", str(folder), *(f"{name}=={number}" for name, number in versions.items())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")] or done.stderr.splitlines()
        reason = lines[-1].removeprefix("ERROR: ") if lines else f"exit code {done.returncode}"
        raise UserError(
            f"the wheels for {architecture}, Python {python_version} cannot be fetched with pip ({reason}). Without a "
            "network, name a folder that holds them with --wheels"
        )


def find_wheels(folder: Path, architecture: Architecture, python_version: str) -> dict[str, Path]:
    """The wheel of each package in ``folder`` for this machine and Python.

    Raises:
        UserError: one is missing, or there are several.
    """
    if not folder.is_dir():
        raise UserError(f"--wheels {folder}: no such folder; expected one that holds wheels")
    found: dict[str, Path] = {}
    for name in PACKAGES:
        fitting = [
            path for path in sorted(folder.glob(f"{name}-*.whl")) if _fits(path.name, architecture, python_version)
        ]
        if len(fitting) != 1:
            raise UserError(
                f"{folder}: found {len(fitting)} wheels of {name} for {architecture}, Python {python_version}, "
                f"expected one: {', '.join(path.name for path in fitting) or 'none fits'}"
            )
        found[name] = fitting[0]
    return found


def _fits(name: str, architecture: Architecture, python_version: str) -> bool:
    """Whether a wheel of this file name is for the machine and Python (peps.python.org/pep-0427, file name)."""
    parts = name.removesuffix(".whl").split("-")
    if len(parts) < 5:
        return False
    pythons, abis, platforms = (part.split(".") for part in parts[-3:])
    tag = "cp" + python_version.replace(".", "")
    is_for_python = (tag in pythons and tag in abis) or (
        "abi3" in abis and any(_minor(one) <= _minor(tag) for one in pythons)
    )
    return is_for_python and any(one.endswith("_" + _MACHINES[architecture]) for one in platforms)


def cannot_start(names: Iterable[str], python_version: str) -> str | None:
    """Why wheels of these file names will not start at AWS, in words; None where nothing is known against them."""
    if _minor("cp" + python_version.replace(".", "")) >= 12:
        return None
    needed = ((name, _glibc(name)) for name in names)
    needs = dict.fromkeys(
        f"{' '.join(name.split('-')[:2])} needs 2.{glibc}" for name, glibc in needed if glibc > _GLIBC_BEFORE_3_12
    )
    if not needs:
        return None
    return (
        f"this bundle will not start at AWS, where Python {python_version} has glibc 2.{_GLIBC_BEFORE_3_12}: "
        f"{', '.join(needs)}. Pass --python-version 3.12 or later, which has 2.{_NEWEST_GLIBC}; as it is, the bundle "
        "serves to try it out on this machine"
    )


def _glibc(name: str) -> int:
    """With which glibc 2 a wheel of this file name runs, and with later ones; 0 where it does not say."""
    minors = re.findall(r"manylinux_2_([0-9]+)_", name.replace("manylinux2014_", "manylinux_2_17_"))
    return min(map(int, minors), default=0)


def _minor(tag: str) -> int:
    """Of cp310 the 10."""
    return int(tag[3:]) if tag.startswith("cp3") and tag[3:].isdecimal() else 1_000


def unpack(wheel: Path, folder: Path) -> None:
    """Unpack a wheel as it would be installed, without its scripts.

    Raises:
        UserError: it is damaged, or a file in it would lie outside of ``folder``.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            for info in archive.infolist():
                path = PurePosixPath(info.filename)
                if not path.parts or path.is_absolute() or ".." in path.parts:
                    raise UserError(f"{wheel}: holds {info.filename!r}, which would lie outside of the bundle")
                if path.parts[0].endswith(".data"):
                    if path.parts[1:2] not in (("purelib",), ("platlib",)):
                        continue
                    path = PurePosixPath(*path.parts[2:])
                if info.is_dir():
                    continue
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(info))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise UserError(f"{wheel}: not a wheel that can be read ({error})") from None

"""What the tests of bundles share: wheels of what is installed here, and a bundle made with them."""

from __future__ import annotations

import platform
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

import bertwright
from bertwright.shipping.aws_lambda.wheels import PACKAGES

HERE = {
    "architecture": {"aarch64": "arm64"}.get(platform.machine(), platform.machine()),
    "python_version": ".".join(map(str, sys.version_info[:2])),
}


@pytest.fixture(scope="session")
def wheels(tmp_path_factory) -> Path:
    """A folder of the installed packages as the wheels that they came from: no test fetches any."""
    if not sys.platform.startswith("linux"):
        pytest.skip("wheels for Lambda are Linux's")
    folder = tmp_path_factory.mktemp("wheels")
    for name in PACKAGES:
        found = distribution(name)
        lines = (found.read_text("WHEEL") or "").splitlines()
        tag = next(line.removeprefix("Tag: ") for line in lines if line.startswith("Tag: "))
        with zipfile.ZipFile(folder / f"{name}-{found.version}-{tag}.whl", "w") as archive:
            for file in found.files or []:
                if ".." not in file.parts and "__pycache__" not in file.parts:
                    archive.write(str(file.locate()), file.as_posix())
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory, examples):
    """A run of a tiny model."""
    return bertwright.train(
        examples / "comments_train.csv",
        test=examples / "comments_test.csv",
        output=tmp_path_factory.mktemp("runs") / "run",
        model="bert-tiny",
        max_length=32,
        steps=60,
        learning_rate=1e-3,
        quiet=True,
    )


@pytest.fixture(scope="session")
def bundled(tmp_path_factory, trained, wheels) -> Path:
    """A bundle of that run for this machine and Python."""
    output = tmp_path_factory.mktemp("bundles") / "bundle"
    bertwright.export_lambda(trained.path, output, wheels=wheels, quiet=True, **HERE)
    return output

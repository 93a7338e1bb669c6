"""That the C kernels are there at all: the tests of what they compute skip where they are not."""

import os
import platform
import shutil
import subprocess
import sys

import pytest

from bertwright.model import compiled
from bertwright.model.compiled import load_kernels

wanted = (
    sys.platform == "linux"
    and any(shutil.which(name) for name in ("cc", "gcc"))
    and os.environ.get("BERTWRIGHT_KERNELS") != "off"
)


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_a_cache_that_others_can_write_to_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = compiled._cache_folder()
    assert folder.stat().st_mode & 0o077 == 0
    folder.chmod(0o777)
    with pytest.raises(OSError, match="can be written to by others"):
        compiled._cache_folder()


@pytest.mark.skipif(not wanted, reason="no Linux, no C compiler, or the kernels are switched off")
def test_where_there_is_a_compiler_there_are_kernels():
    found = load_kernels()
    assert found.kernels is not None, found.reason


@pytest.mark.skipif(not wanted or platform.machine() != "x86_64", reason="levels of x86-64, by a C compiler on Linux")
@pytest.mark.parametrize("level", ["x86-64", "x86-64-v3", "x86-64-v4", "sapphirerapids"])
def test_the_kernels_are_built_for_every_processor_not_for_this_one_alone(level, tmp_path, monkeypatch):
    flags = tuple(f"-march={level}" if flag == "-march=native" else flag for flag in compiled._FLAGS)
    assert flags != compiled._FLAGS
    monkeypatch.setattr(
        compiled, "_FLAGS", (*flags, "-O0")
    )  # -O0: it is about whether it builds, and so takes a second
    compiler = shutil.which("cc") or shutil.which("gcc")
    known = subprocess.run(
        [compiler, f"-march={level}", "-E", "-x", "c", "-"], input=b"", capture_output=True
    )  # a compiler may be older than the processor
    if known.returncode:
        pytest.skip(f"{compiler} does not know {level}")
    library = tmp_path / "kernels.so"
    compiled._compile(compiler, library)
    assert library.is_file()


def test_why_the_kernels_are_not_built_is_the_compilers_error_not_what_it_says_before(tmp_path, monkeypatch):
    compiler = tmp_path / "cc"
    compiler.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && exit 0\n'
        "echo 'In file included from kernels.c:11:' >&2; echo 'vectors.h:1: error: no such thing' >&2; exit 1\n"
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("BERTWRIGHT_KERNELS", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    found = load_kernels.__wrapped__()
    assert found.kernels is None
    assert "vectors.h:1: error: no such thing" in found.reason
    assert "In file included" not in found.reason

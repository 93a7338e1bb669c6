"""That the C kernels are there at all: the tests of what they compute skip where they are not."""

import os
import shutil
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

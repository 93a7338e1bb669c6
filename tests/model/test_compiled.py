"""That the C kernels are there at all: the tests of what they compute skip where they are not."""

import os
import shutil
import sys

import pytest

from bertwright.model.compiled import load_kernels

wanted = (
    sys.platform == "linux"
    and any(shutil.which(name) for name in ("cc", "gcc"))
    and os.environ.get("BERTWRIGHT_KERNELS") != "off"
)


@pytest.mark.skipif(not wanted, reason="no Linux, no C compiler, or the kernels are switched off")
def test_where_there_is_a_compiler_there_are_kernels():
    found = load_kernels()
    assert found.kernels is not None, found.reason

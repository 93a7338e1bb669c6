"""The C kernels: compiled once on the machine that runs them, kept in the user's cache, loaded here.

A C compiler takes a few seconds for them, once; after that they are only loaded. Where there is none, or it cannot
build them, everything is computed by PyTorch's own operators instead, and the reason is said.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch  # before the kernels: they must find PyTorch's OpenMP, whose threads they share

_FOLDER = Path(__file__).parent
_SOURCES = ("kernels.c", "products.c", "attention_tiles.c")
_HEADERS = ("vectors.h", "tiles.h")
_FLAGS = (
    *("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fopenmp", "-fPIC", "-std=gnu11"),
    "-Werror=implicit-function-declaration",
)
_COMPILE_LIMIT_S = 120


class Dropout(ctypes.Structure):
    """Which elements a kernel sets to 0; as in kernels.c."""

    _fields_ = (
        ("threshold", ctypes.c_uint32),
        ("scale", ctypes.c_float),
        ("key", ctypes.c_uint32),
        ("key2", ctypes.c_uint32),
    )


class Adam(ctypes.Structure):
    """The settings of one AdamW step; as in kernels.c."""

    _fields_ = tuple(
        (name, ctypes.c_float) for name in ("beta1", "beta2", "epsilon", "shrink", "step_size", "root_scale")
    )


class Weight(ctypes.Structure):
    """A weight, its gradient and its moments; as in kernels.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("gradient", "master", "m", "v", "rounded")),
        ("n", ctypes.c_int64),
        *((name, ctypes.c_int) for name in ("half", "decayed")),
        ("scale", ctypes.c_float),
    )


class Attention(ctypes.Structure):
    """The inputs of attention; as in kernels.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("q", "k", "v", "q_bias", "k_bias", "v_bias")),
        *((name, ctypes.c_int64) for name in ("q_stride", "k_stride", "v_stride")),
        *((name, ctypes.c_void_p) for name in ("q_starts", "k_starts", "order")),
        ("texts", ctypes.c_int64),
        *((name, ctypes.c_int) for name in ("heads", "head", "longest")),
        ("dropout", Dropout),
    )


class Softmax(ctypes.Structure):
    """A softmax over the columns of a product; as in products.c."""

    _fields_ = tuple(
        (name, ctypes.c_void_p)
        for name in ("bias", "targets", "most", "sums", "tops", "target_logits", "scales", "offsets")
    )


_P, _L, _I, _F = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
# The arguments of each kernel, by name; those in the first table exist for each of float and bf16.
_TYPED = {
    "norm_forward": (_P, _P, _P, _P, _P, _P, _P, _L, _I, _F, _P),
    "norm_backward": (_P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _L, _I, _P),
    "embed_forward": (_P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _L, _I, _F, _P),
    "embed_backward": (_P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _L, _I, _P),
    "gelu_forward": (_P, _P, _P, _L, _I),
    "gelu_backward": (_P, _P, _P, _P, _P, _L, _I),
    "quantize": (_P, _P, _P, _L, _I),
    "dequantize": (_P, _P, _P, _P, _L, _I),
    "gelu_quantize": (_P, _P, _P, _P, _P, _P, _L, _I),
    "column_sums": (_P, _P, _P, _L, _I),
    "attention_forward": (_P, _P, _L, _P),
    "attention_backward": (_P, _P, _L, _P, _P, _P, _P),
}
_UNTYPED = {
    "sum_by_group": (_P, _P, _P, _L, _I, _P),
    "squares_of_each": (_P, _L, _I, _P),
    "adam_step": (_P, _L, _P),
    "adam_rows": (_P, _L, _P, _F, _P, _P, _P, _P, _P, _L, _P, _I),
    "panel_columns": (),
    "product_panels": (_P, _P, _P, _L, _I, _I),
    "num_threads": (),
    "has_bf16_products": (),
    "has_tile_products": (),
}
# Only where the processor has tiles.
_TILES = {
    "product_rows": (_P, _I, _P, _I, _P, _P, _P, _P, _L, _L, _L, _I),
    "product_columns": (_P, _I, _L, _P, _P, _L, _P, _L, _L, _I),
    "vocabulary_sums": (_P, _P, _P, _L, _L, _L, _P),
    "vocabulary_slopes": (_P, _P, _P, _L, _L, _L, _P),
    "attention_forward_tiles": _TYPED["attention_forward"],
    "attention_backward_tiles": _TYPED["attention_backward"],
}
_RETURNS = {"num_threads": _I, "panel_columns": _I, "has_bf16_products": _I, "has_tile_products": _I}


class Kernels:
    """The loaded kernels: ``kernels.float.gelu_forward(...)``, ``kernels.bf16...``, ``kernels.sum_by_group(...)``."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.sum_by_group = _function(library, "sum_by_group", "sum_by_group")
        self.squares_of_each = _function(library, "squares_of_each", "squares_of_each")
        self.adam_step = _function(library, "adam_step", "adam_step")
        self.adam_rows = _function(library, "adam_rows", "adam_rows")
        self.num_threads = _function(library, "num_threads", "num_threads")
        self.panel_columns = int(_function(library, "panel_columns", "panel_columns")())
        self.product_panels = _function(library, "product_panels", "product_panels")
        self.has_bf16_products = bool(_function(library, "has_bf16_products", "has_bf16_products")())
        self.has_tile_products = bool(_function(library, "has_tile_products", "has_tile_products")())
        if self.has_tile_products:
            for name in _TILES:
                setattr(self, name, _function(library, name, name))
        self.float = TypedKernels(library, "float", True)
        self.bf16 = TypedKernels(library, "bf16", self.has_bf16_products)

    def of(self, dtype: torch.dtype) -> TypedKernels:
        """The kernels that compute in float32 or bfloat16."""
        return {torch.float32: self.float, torch.bfloat16: self.bf16}[dtype]

    def __getattr__(self, name: str) -> ctypes._NamedFuncPointer:
        raise AttributeError(f"no kernel {name} on this machine")


class TypedKernels:
    """The kernels for one dtype, by name; see kernels.c for what each does."""

    def __init__(self, library: ctypes.CDLL, dtype: str, attention: bool) -> None:
        for name in _TYPED:
            if attention or not name.startswith("attention"):
                setattr(self, name, _function(library, name, f"{name}_{dtype}"))

    def __getattr__(self, name: str) -> ctypes._NamedFuncPointer:
        raise AttributeError(f"no kernel {name} on this machine")


def _function(library: ctypes.CDLL, name: str, symbol: str) -> ctypes._NamedFuncPointer:
    function = getattr(library, symbol)
    function.argtypes = (_TYPED | _UNTYPED | _TILES)[name]
    function.restype = _RETURNS.get(name)
    return function


@dataclass(frozen=True)
class Found:
    """The kernels, or None; and how they came, or why there are none."""

    kernels: Kernels | None
    reason: str


@functools.cache
def load_kernels() -> Found:
    """The kernels for this machine, compiled if they are not in the cache yet."""
    if os.environ.get("BERTWRIGHT_KERNELS") == "off":
        return Found(None, "switched off by BERTWRIGHT_KERNELS=off")
    if sys.platform != "linux":
        return Found(None, f"the C kernels are built on Linux only, not on {sys.platform}")
    compiler = next(
        (found for name in (os.environ.get("CC"), "cc", "gcc") if name and (found := shutil.which(name))), None
    )
    if compiler is None:
        return Found(None, "no C compiler (cc, gcc) on this machine: install one, the next run is faster")
    try:
        source = b"\0".join((_FOLDER / name).read_bytes() for name in (*_SOURCES, *_HEADERS))
        version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=30).stdout
        key = hashlib.sha256(b"\0".join([source, version, " ".join(_FLAGS).encode(), _cpu().encode()])).hexdigest()
        library = _cache_folder() / f"kernels-{key[:32]}.so"
        how = "from the cache"
        if not library.is_file():
            _compile(compiler, library)
            how = f"compiled by {Path(compiler).name}"
        return Found(Kernels(ctypes.CDLL(str(library))), f"C kernels, {how}")
    except subprocess.CalledProcessError as error:
        said = (error.stderr or b"").decode("utf-8", "replace").strip().splitlines()
        first = next((line for line in said if "error" in line.lower()), said[0] if said else str(error))
        return Found(None, f"{compiler} cannot build the C kernels ({first})")
    except (OSError, subprocess.TimeoutExpired, AttributeError) as error:
        return Found(None, f"the C kernels could not be built or loaded ({error})")


def _compile(compiler: str, library: Path) -> None:
    """Beside its place, then renamed: two processes may do this at once."""
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        objects = [(str(_FOLDER / name), str(Path(folder) / f"{name}.o")) for name in _SOURCES]
        linked = Path(folder) / "kernels.so"
        for command in (
            *([compiler, *_FLAGS, "-c", source, "-o", compiled] for source, compiled in objects),
            # Without -fopenmp: a second OpenMP library would bring threads of its own, which would fight PyTorch's.
            [compiler, "-shared", *(compiled for _, compiled in objects), "-o", str(linked), "-lm"],
        ):
            subprocess.run(command, capture_output=True, check=True, timeout=_COMPILE_LIMIT_S)
        os.replace(linked, library)


def _cache_folder() -> Path:
    """A folder that this user alone can write to: what lies there is loaded and run."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(root) / "bertwright"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise OSError(f"{folder} can be written to by others: chmod 700 it")
    return folder


def _cpu() -> str:
    """What decides the compiler's -march=native: the processor's name and features."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    return "\n".join(
        found.group(0)
        for pattern in (r"^model name\s*:.*$", r"^(flags|Features)\s*:.*$")
        if (found := re.search(pattern, text, re.MULTILINE))
    )

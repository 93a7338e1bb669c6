"""Files of torch.save, read without running what stands in them.

torch reads them with ``weights_only``: of a pickle's instructions only those that build tensors, numbers, strings and
containers, and of the classes that it names only those on a list. Objects of other classes, such as fairseq's settings,
become ``Record``: their attributes and nothing else. No code of theirs is imported or run.
"""

from __future__ import annotations

import _compat_pickle
import pickle
import pickletools
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bertwright.errors import CheckpointError

_LEGACY_PICKLES = 4  # magic number, protocol, system, and then what was saved
_REFUSED = re.compile(r"(?:[Uu]nsupported global: GLOBAL|unsupported GLOBAL|unrecognized function) (\S+)")


class Record:
    """What a pickle says of an object: ``arguments`` it was made with, ``state`` that it was given. It does nothing."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state


def load(path: Path, is_record: Callable[[str], bool] | None = None) -> Any:
    """What a file of torch.save holds. Tensors of a zip file stay on disk until they are read.

    Objects of classes for whose full name ``is_record`` is true become ``Record``.

    Raises:
        CheckpointError: damaged, or it names something else that is not data.
    """
    try:
        is_zip = zipfile.is_zipfile(path)
        names = [] if is_record is None else [name for name in _names(path, is_zip) if is_record(name)]
        with torch.serialization.safe_globals([(Record, name) for name in names]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except (
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        RuntimeError,  # with NotImplementedError and RecursionError
        OSError,
        EOFError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        AssertionError,
        MemoryError,
        struct.error,
        zlib.error,
    ) as error:
        # Torch's own message advises to read the file without the check: not ours to pass on.
        named = _REFUSED.search(str(error))
        reason = f" (it names {named.group(1)})" if named else ""
        raise CheckpointError(
            f"{path}: damaged, or holds more than tensors; refused without running it{reason}"
        ) from None


def _names(path: Path, is_zip: bool) -> set[str]:
    """The full names of all classes and functions that the file's pickle names, read from its instructions."""
    with ExitStack() as stack:
        if is_zip:
            archive = stack.enter_context(zipfile.ZipFile(path))
            member = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            streams = [stack.enter_context(archive.open(member))]
        else:
            streams = [stack.enter_context(open(path, "rb"))] * _LEGACY_PICKLES
        return {
            _new_name(*argument.split(" ", 1))
            for stream in streams
            for instruction, argument, _ in pickletools.genops(stream)
            if instruction.name == "GLOBAL" and argument is not None
        }


def _new_name(module: str, name: str) -> str:
    """Python 3's name of what pickles name as Python 2 did."""
    module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
    return f"{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{name}"


def plain_tensors(values: Any, source: str) -> dict[str, Tensor]:
    """Tensors by name, in memory of their own.

    Raises:
        CheckpointError: something else, or a tensor of another kind than a dense one.
    """
    if not isinstance(values, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in values.items()):
        raise CheckpointError(f"{source}: found {type(values).__name__}, expected tensors by name")
    for name, tensor in values.items():
        check_plain(name, tensor, source)
    # Copies, since tensors of such a file may share memory with each other, or even with themselves.
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in values.items()}


def check_plain(name: str, tensor: Tensor, source: str) -> None:
    """Check that a tensor is a dense one.

    Raises:
        CheckpointError: it is not.
    """
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type == "meta":
        raise CheckpointError(f"{source}: tensor {name} is not a plain dense tensor")

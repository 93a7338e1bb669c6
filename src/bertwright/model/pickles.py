"""Files of torch.save, read without running what stands in them.

torch reads them with ``weights_only``: of a pickle's instructions only those that build tensors, numbers, strings and
containers, and of the classes that it names only those on a list. Objects of other classes, such as fairseq's settings,
become ``Record``: their attributes and nothing else. No code of theirs is imported or run.

A small file must not become a large one in memory either: nothing in it may be compressed, its pickle has a most size,
and tensors are copied only if together they are about as large as the file.
"""

from __future__ import annotations

import _compat_pickle
import pickle
import pickletools
import re
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bertwright.errors import CheckpointError, shown

_LEGACY_PICKLES = 4  # magic number, protocol, system, and then what was saved
# What torch says of a class or function that it does not take, or that takes no items here.
_REFUSED = re.compile(
    r"(?:[Uu]nsupported global: GLOBAL |unsupported GLOBAL |unrecognized function (?:<(?:class|function) ')?"
    r"|but got <class ')([\w.<>]+)"
)
# A model's pickle says where its tensors are: 50 kB for BERT-large. fairseq's has its settings and its meters too.
_MOST_PICKLE_BYTES = 1 << 23
_MOST_RECORDED_NAMES = 1_000
_MOST_NAME_CHARACTERS = 1_000
# torch searches its messages, which repeat what it refuses, in a time that grows with the square of a string's length.
# The folders that fairseq's settings name stand in one string.
_MOST_STRING_CHARACTERS = 20_000
# Tensors may be in a file once and be named twice, as embeddings that are the output layer's weights too.
_MOST_NAMES_OF_A_TENSOR = 2


class Record:
    """What a pickle says of an object: ``arguments`` it was made with, ``state`` that it was given. It does nothing.

    Each recorded class is one of its own, under the name that the pickle has for it.
    """

    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any) -> Record:
        made = super().__new__(cls)
        made.arguments, made.state = arguments, {}
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _mapping(*_: Any) -> OrderedDict[Any, Any]:
    """An empty mapping, which torch lets a pickle fill; what it would make its missing items with is left out."""
    return OrderedDict()


def _list(*_: Any) -> list[Any]:
    return []


# Objects of other classes than these take no items.
_CONTAINERS: dict[str, Callable[..., Any]] = {
    "collections.defaultdict": _mapping,
    "fairseq.meters.MetersDict": _mapping,
    "fairseq.logging.meters.MetersDict": _mapping,
    "collections.deque": _list,
}


def load(path: Path, is_record: Callable[[str], bool] | None = None) -> Any:
    """What a file of torch.save holds. Tensors of a zip file stay on disk until they are read.

    Objects of classes for whose full name ``is_record`` is true become ``Record``.

    Raises:
        CheckpointError: damaged, or it names something else that is not data.
    """
    try:
        is_zip = zipfile.is_zipfile(path)
        if is_zip:
            _check_archive(path)
        names = [name for name in _names(path, is_zip) if is_record is not None and is_record(name)]
        if len(names) > _MOST_RECORDED_NAMES:
            raise CheckpointError(f"{path}: names {len(names):,} classes, expected at most {_MOST_RECORDED_NAMES:,}")
        with torch.serialization.safe_globals([(_stand_in(name), name) for name in names]):
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


def _check_archive(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise CheckpointError(
                    f"{path}: {shown(member.filename)} in it is compressed, which no file of torch.save is; unpack it "
                    "and save it again with torch.save"
                )
            if member.filename.endswith(".pkl") and member.file_size > _MOST_PICKLE_BYTES:
                raise CheckpointError(
                    f"{path}: its pickle has {member.file_size:,} bytes, expected at most {_MOST_PICKLE_BYTES:,}"
                )


def _stand_in(name: str) -> Callable[..., Any]:
    """What is made in place of objects of the class ``name``."""
    if name in _CONTAINERS:
        return _CONTAINERS[name]
    module, _, own_name = name.rpartition(".")
    return type(own_name, (Record,), {"__module__": module, "__qualname__": own_name})


def _names(path: Path, is_zip: bool) -> set[str]:
    """The full names of all classes and functions that the file's pickles name, read from their instructions.

    Raises:
        CheckpointError: a string in them is longer than any of a model's.
    """
    names = set()
    with ExitStack() as stack:
        if is_zip:
            archive = stack.enter_context(zipfile.ZipFile(path))
            members = [member for member in archive.infolist() if member.filename.endswith(".pkl")]
            streams = [stack.enter_context(archive.open(member)) for member in members]
            num_bytes = sum(member.file_size for member in members)
        else:
            streams = [stack.enter_context(open(path, "rb"))] * _LEGACY_PICKLES
            num_bytes = path.stat().st_size
        try:
            for instruction, argument, _ in chain.from_iterable(map(pickletools.genops, streams)):
                if isinstance(argument, str | bytes) and len(argument) > _MOST_STRING_CHARACTERS:
                    raise CheckpointError(
                        f"{path}: a string in its pickle has {len(argument):,} characters, expected at most "
                        f"{_MOST_STRING_CHARACTERS:,}"
                    )
                if instruction.name == "GLOBAL" and argument is not None:
                    names.add(_new_name(*argument.split(" ", 1)))
        except (ValueError, struct.error):
            if num_bytes > _MOST_STRING_CHARACTERS:  # else no string behind it is longer, and torch says what is wrong
                raise
    return names


def _new_name(module: str, name: str) -> str:
    """Python 3's name of what pickles name as Python 2 did."""
    module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
    return f"{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{name}"


def plain_tensors(values: Any, path: str | Path) -> dict[str, Tensor]:
    """The tensors of the file ``path`` by name, in memory of their own.

    Raises:
        CheckpointError: as :func:`check_tensors`.
    """
    checked = check_tensors(values, path)
    # Copies, since tensors of such a file may share memory with each other, or even with themselves.
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in checked.items()}


def check_tensors(values: Any, path: str | Path) -> dict[str, Tensor]:
    """``values`` of the file ``path``, which are dense tensors by name, and no larger than what the file holds.

    Raises:
        CheckpointError: something else, or copies of them would be larger than the file.
    """
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: found {shown(values)}, expected tensors by name")
    found = Path(path).stat().st_size
    checked, total = {}, 0
    for name, tensor in values.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"{path}: {shown(name)} is {shown(tensor)}, expected tensors by name")
        if len(name) > _MOST_NAME_CHARACTERS or not name.isprintable():
            raise CheckpointError(f"{path}: {shown(name)} is no tensor's name")
        if type(tensor) not in (Tensor, torch.nn.Parameter):
            raise CheckpointError(f"{path}: tensor {name} is not a plain dense tensor")
        tensor = Tensor.detach(tensor)  # without attributes of its own, which may stand in front of its methods
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested or tensor.device.type == "meta":
            raise CheckpointError(f"{path}: tensor {name} is not a plain dense tensor")
        num_bytes = tensor.numel() * tensor.element_size()
        if num_bytes > found:  # one number may stand for a few, as by expand(), but not for more than all of them
            raise CheckpointError(f"{path}: tensor {name} is larger than what the file holds of it")
        checked[name] = tensor
        total += num_bytes
    if total > _MOST_NAMES_OF_A_TENSOR * found:
        raise CheckpointError(
            f"{path}: its tensors make {total:,} bytes of a file of {found:,}, expected at most twice its size: many "
            "of them are the same numbers"
        )
    return checked

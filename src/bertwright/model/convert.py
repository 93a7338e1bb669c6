"""The act of converting: a checkpoint of fairseq's or of TensorFlow 1's into a folder in Hugging Face's layout."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import tokenizers

from bertwright import runs
from bertwright.config.base import build
from bertwright.config.convert import ConvertConfig
from bertwright.errors import CheckpointError
from bertwright.model.casing import Casing
from bertwright.model.foreign import LAYOUTS, TOKENIZER, ForeignCheckpoint, find_foreign
from bertwright.model.rust_panics import refusing_panics
from bertwright.progress import Reporter


def convert(checkpoint: str | Path, output: str | Path, *, quiet: bool = False, **settings: Any) -> dict[str, Any]:
    """Write the model ``checkpoint`` into the new folder ``output``, in Hugging Face's layout; say what was done.

    ``settings`` are those of ``bertwright convert``, with underscores. Nothing in the checkpoint is run.

    Raises:
        UserError: bad settings, an output in the way, or a checkpoint that is damaged or of another kind.
    """
    config = build(ConvertConfig, {**settings, "checkpoint": checkpoint, "output": output})
    return run_conversion(config, Reporter(quiet=quiet))


def run_conversion(config: ConvertConfig, reporter: Reporter) -> dict[str, Any]:
    """Read, check, write beside, rename; says and returns what was done."""
    started = time.perf_counter()
    output = Path(config.output)
    if output.exists():
        raise CheckpointError(f"{output} exists; name another folder")
    runs.check_can_be_made(output)
    foreign = _open(config)
    values, tokenizer_files = foreign.config(), foreign.tokenizer_files()
    _check_tokenizer(tokenizer_files[TOKENIZER], values["vocab_size"], foreign)

    from bertwright.model.checkpoint import save_tensors

    tensors = foreign.tensors()
    with runs.whole_folder(output, overwrite=False) as partial:
        partial.mkdir(parents=True)
        runs.write_json(partial / "config.json", values)
        save_tensors(tensors, partial / "model.safetensors")
        for name, content in tokenizer_files.items():
            (partial / name).write_bytes(content)
    for note in dict.fromkeys(foreign.notes):
        reporter.say(note)
    result = {
        "output": str(output),
        "layout": foreign.layout,
        "model_type": values["model_type"],
        "architecture": values["architectures"][0],
        "tensors": len(tensors),
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        "vocab_size": values["vocab_size"],
        "labels": len(values.get("id2label", ())),
        "seconds": time.perf_counter() - started,
    }
    reporter.say(
        f"{foreign.layout} checkpoint {foreign.path}: {result['tensors']} tensors, {result['parameters']:,} parameters"
    )
    reporter.say(f"written in {result['seconds']:.1f} s: {output} ({result['architecture']})")
    return result


def _open(config: ConvertConfig) -> ForeignCheckpoint:
    path = Path(config.checkpoint)
    vocabulary = None if config.vocabulary is None else Path(config.vocabulary)
    if vocabulary is not None and not vocabulary.is_dir():
        raise CheckpointError(f"{vocabulary}: no such folder; expected the one that holds the tokenizer's files")
    lowercase = None if config.cased is None else not config.cased
    casing = Casing(lowercase, config.strip_accents)
    foreign = find_foreign(path, vocabulary, config.head, casing)
    if foreign is None:
        if (path / "config.json").is_file():
            raise CheckpointError(f"{path}: in Hugging Face's layout already; every command takes it as it is")
        found = "nothing that is known" if path.exists() else "no such folder or file"
        raise CheckpointError(f"{path}: {found}; expected {LAYOUTS}")
    if config.head is not None and foreign.layout != "fairseq":
        raise CheckpointError(f"--head {config.head}: only fairseq's checkpoints have heads with names; leave it out")
    if casing != Casing() and foreign.layout != "TensorFlow 1":
        flag = "--strip-accents" if config.cased is None else "--cased"
        raise CheckpointError(
            f"{flag}: only TensorFlow 1's checkpoints have texts that may be lower-cased; leave it out"
        )
    return foreign


def _check_tokenizer(tokenizer_json: bytes, vocab_size: int, foreign: ForeignCheckpoint) -> None:
    with refusing_panics(str(foreign.path)):
        highest = max(tokenizers.Tokenizer.from_buffer(tokenizer_json).get_vocab(with_added_tokens=True).values())
    if highest >= vocab_size:
        raise CheckpointError(
            f"{foreign.path}: the tokenizer knows {highest + 1:,} tokens, the model {vocab_size:,}; they do not belong "
            "together"
        )

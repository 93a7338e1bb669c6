"""Make the model that comes with bertwright, of a pretraining of Tiny: the same weights in bfloat16.

    python benchmarks/ship_tiny.py RUN

Writes the weights, configuration and tokenizer into ``src/bertwright/model/bertwright_tiny``; the README.md there is
written by hand. The pretraining that made the model is in that README.md too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from bertwright.model.sources import TINY_FOLDER


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    model = parser.parse_args().run / "model"
    config = json.loads((model / "config.json").read_text()) | {"dtype": "bfloat16"}
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(model / "model.safetensors").items()}
    TINY_FOLDER.mkdir(exist_ok=True)
    save_file(tensors, TINY_FOLDER / "model.safetensors", metadata={"format": "pt"})
    os.chmod(TINY_FOLDER / "model.safetensors", 0o644)  # safetensors' writer lets nobody else read its files
    (TINY_FOLDER / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for name in ("tokenizer.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copyfile(model / name, TINY_FOLDER / name)
    tokenizer = json.loads((model / "tokenizer_config.json").read_text())
    tokenizer.pop("name_or_path", None)  # of the model whose tokenizer it was before
    (TINY_FOLDER / "tokenizer_config.json").write_text(json.dumps(tokenizer, indent=2) + "\n")
    size = sum(path.stat().st_size for path in TINY_FOLDER.iterdir())
    print(f"{TINY_FOLDER}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

"""Write tests/golden/fairseq/omegaconf.pt: settings as fairseq's releases of 2020 kept them, omegaconf's objects.

Needs omegaconf, which nothing else here does: pip install omegaconf into an environment with torch, and run this file.
The committed file is of omegaconf 2.4.0.
"""

from __future__ import annotations

from pathlib import Path

import torch
from omegaconf import OmegaConf

SETTINGS = {
    "_name": "roberta_base",
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "activation_fn": "gelu",
    "dropout": 0.1,
    "encoder_layers_to_keep": None,
}

if __name__ == "__main__":
    settings = OmegaConf.create({"model": SETTINGS, "task": {"_name": "masked_lm"}})
    torch.save({"args": None, "cfg": settings, "model": {}}, Path(__file__).parent / "fairseq" / "omegaconf.pt")

"""Weights packed into 4 or 8 bits as they are loaded, by bitsandbytes: a large model on a small card."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from interp.errors import UserError

Quantize = Literal["4bit", "8bit"]


def quantization(quantize: str | None, dtype: torch.dtype, folder: Path, name: str) -> dict[str, Any]:
    """What transformers is told. "4bit": NF4 (QLoRA, arXiv:2305.14314); "8bit": LLM.int8 (arXiv:2208.07339).

    `folder`: the checkpoint's. Raises UserError for another word, a checkpoint that is quantised already, and where
    bitsandbytes is not installed.
    """
    if quantize is None:
        return {}
    if quantize not in get_args(Quantize):
        raise UserError(f"quantize={quantize!r}; expected one of {', '.join(get_args(Quantize))}, or nothing")
    config: dict[str, Any] = {}
    with suppress(OSError, ValueError):  # what is wrong with it, loading says
        config = json.loads((folder / "config.json").read_text())
    if "quantization_config" in config:
        method = config["quantization_config"].get("quant_method", "in a way that it does not name")
        raise UserError(f"{name} is quantised already ({method}), and quantize={quantize!r} came; leave it out")
    if find_spec("bitsandbytes") is None:
        raise UserError(
            f"quantize={quantize!r} needs bitsandbytes, which is not here; pip install 'interp-probes[quantize]'"
        )
    from transformers import BitsAndBytesConfig

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it says at each matrix that 8 bits multiply in fp16
    if quantize == "8bit":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    four = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    return {"quantization_config": four}

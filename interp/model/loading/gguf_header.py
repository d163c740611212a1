"""What the header of a `.gguf` file says and transformers' reader drops: rotary scaling, partial rotary, windows.

transformers 5.23 takes sizes, norms' epsilons and the rotary base from the header, and nothing of the following: then
it computes another model without a word. Settings that its config has a place for are put there; a tensor that it has
no place for (the biases of a Llama) is refused by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf

from interp.errors import UserError

PARTLY_ROTARY = ("phi3", "stablelm", "nemotron")  # transformers reads `partial_rotary_factor` in these
LONG, SHORT, FACTORS = "rope_factors_long.weight", "rope_factors_short.weight", "rope_freqs.weight"
ELSEWHERE = "load the model from its safetensors folder instead"


class Header:
    """The keys of a file's own architecture, without its name in front."""

    def __init__(self, reader: gguf.GGUFReader) -> None:
        field = reader.fields.get("general.architecture")
        self.architecture = str(field.contents()) if field is not None else ""
        self.reader = reader
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.shapes = {name: [int(n) for n in tensor.shape] for name, tensor in self.tensors.items()}

    def get(self, key: str) -> Any:
        """What stands under `key`; None where it does not."""
        field = self.reader.fields.get(f"{self.architecture}.{key}")
        return None if field is None else field.contents()

    def numbers(self, tensor: str) -> list[float]:
        """A small tensor's numbers, as they are."""
        return [float(n) for n in self.tensors[tensor].data.reshape(-1)]


def check_sizes(header: Header, file: Path) -> None:
    """The header's sizes against the tensors': one flipped byte there has transformers allocate tens of gigabytes."""
    shapes = header.shapes
    parts = {name.split(".", 2)[-1] for name in shapes if name.startswith("blk.")}
    attends, gated = any(part.startswith("attn_") and "norm" not in part for part in parts), "ffn_gate.weight" in parts
    inner, rows = shapes.get("blk.0.ffn_down.weight", [0])[0], shapes.get("blk.0.ffn_up.weight", [0])[-1]
    true = {
        "block_count": len({name.split(".")[1] for name in shapes if name.startswith("blk.")}),
        "embedding_length": shapes.get("token_embd.weight", [0])[0],
        "feed_forward_length": inner,
        "context_length": 0,
        "attention.head_count": 0,
        "attention.head_count_kv": 0,
    }
    # llama.cpp writes a zero where a model has no such part: Mamba has no heads, a mixture no single MLP
    may_be_zero = {"attention.head_count": not attends, "attention.head_count_kv": not attends}
    may_be_zero |= {"feed_forward_length": not inner}
    for key, size in true.items():
        said = header.get(key)
        if not isinstance(said, int) or (said == 0 and may_be_zero.get(key)):
            continue
        if said != size if size else not 0 < said <= 1 << 22:
            raise UserError(
                f"{file} is damaged: its header says {key} {said}, which its tensors do not bear out; fetch it again"
            )
    fused = () if gated else (2 * inner,)  # Phi-3 keeps gate and up in one matrix
    if inner and rows and rows not in (inner, *fused):
        raise UserError(
            f"{file} is damaged: its first MLP is {rows} wide where it begins and {inner} where it ends; fetch it again"
        )


def complete_config(config: Any, header: Header, file: Path) -> None:
    """Put into transformers' config what its reader left out. Raises UserError for what has no place there."""
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        if (cap := header.get(key)) is not None and hasattr(config, key):
            setattr(config, key, float(cap))
    if config.model_type == "phi3" and header.get("attention.sliding_window"):
        config.sliding_window = int(header.get("attention.sliding_window"))
    rotary = header.get("rope.dimension_count")
    if rotary and config.model_type in PARTLY_ROTARY:
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        config.rope_parameters["partial_rotary_factor"] = rotary / width
        config.partial_rotary_factor = rotary / width
    _scale_rotary(config, header, file)


def _scale_rotary(config: Any, header: Header, file: Path) -> None:
    kind, factor = header.get("rope.scaling.type"), header.get("rope.scaling.factor")
    rope = getattr(config, "rope_parameters", None)
    if isinstance(rope, dict) and isinstance(rope.get("full_attention"), dict):
        rope = rope["full_attention"]  # Gemma 3 scales the angles of its global layers alone
    if LONG in header.tensors and SHORT in header.tensors and isinstance(rope, dict):
        switch = int(header.get("rope.scaling.original_context_length") or config.max_position_embeddings)
        rope |= {
            "rope_type": "longrope",
            "long_factor": header.numbers(LONG),
            "short_factor": header.numbers(SHORT),
            "original_max_position_embeddings": switch,
        }
        if attention := header.get("rope.scaling.attn_factor"):
            rope["attention_factor"] = float(attention)
        config.original_max_position_embeddings = switch
        return
    if FACTORS in header.tensors and set(factors := header.numbers(FACTORS)) != {1.0}:
        if not isinstance(rope, dict) or "rope_theta" not in rope:
            raise UserError(f"{file} scales its rotary angles ({FACTORS}), which transformers drops; {ELSEWHERE}")
        # Llama 3.1's scaling, already worked out for each angle; both factors the same, so nothing switches
        rope |= {
            "rope_type": "longrope",
            "long_factor": factors,
            "short_factor": factors,
            "attention_factor": 1.0,
            "original_max_position_embeddings": config.max_position_embeddings,
        }
        return
    if kind in (None, "none") or (kind == "linear" and factor in (None, 0, 1)):
        return
    if isinstance(rope, dict) and rope.get("rope_type") == kind and rope.get("factor") == factor:
        return  # the config's own default is the same
    if kind == "linear" and isinstance(rope, dict) and "rope_theta" in rope:
        rope |= {"rope_type": "linear", "factor": float(factor)}
        return
    raise UserError(f"{file} scales its rotary angles ({kind}, factor {factor}), which transformers drops; {ELSEWHERE}")


def refuse_unread(model: Any, header: Header, file: Path) -> None:
    """Raise UserError for a tensor that transformers left in the file, because its model has no place for it."""
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    processor = TENSOR_PROCESSORS.get(header.architecture, TensorProcessor)(config=model.config.to_dict())
    read = set(get_gguf_hf_weights_map(model, processor)) | {LONG, SHORT, FACTORS, "output.weight"}
    unread = sorted(name for name in header.tensors if name not in read and name.removesuffix(".weight") not in read)
    if unread:
        raise UserError(
            f"{file} holds {len(unread)} tensors that transformers' {type(model).__name__} does not read "
            f"({', '.join(unread):.120}), so its numbers would be wrong; {ELSEWHERE}"
        )

"""A model that is in memory already, which transformers, peft or a training script made, as a `Model`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from interp.errors import UserError
from interp.model.hooks.bridge import check_decoder
from interp.model.hooks.tokens import BosPolicy
from interp.model.model import Model
from interp.model.provenance import describe_bos, describe_in_memory


def from_transformers(
    hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, name: str = "in memory", bos: BosPolicy = "tokenizer"
) -> Model:
    """Name the sites of a causal language model that transformers made, with its tokenizer; `load_model` reads files.

    `hf` stays where it is and as it is, and remains `model.hf`; a PeftModel is taken with its adapter. `name` is what
    reports call it, and its provenance holds the SHA-256 of its weights. `bos` as in `load_model`.
    Raises UserError for what is no model of transformers, no tokenizer, or no decoder.
    """
    wrapped: Any = hf
    plain = wrapped.get_base_model() if hasattr(wrapped, "peft_config") else hf
    if isinstance(hf, Model):
        raise UserError("from_transformers got a Model, which has its sites already; use it as it is")
    if not isinstance(plain, PreTrainedModel) or not plain.can_generate():
        raise UserError(
            f"from_transformers got a {type(hf).__name__}; expected a causal language model of transformers, such as "
            "AutoModelForCausalLM.from_pretrained(name) gives; a name or a folder is for load_model"
        )
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise UserError(
            f"from_transformers got a {type(tokenizer).__name__} as the tokenizer; expected the model's own: "
            "AutoTokenizer.from_pretrained(name)"
        )
    if bos not in get_args(BosPolicy):
        raise UserError(f"bos={bos!r}; expected one of {', '.join(get_args(BosPolicy))}")
    if getattr(plain.config, "is_decoder", None) is False:
        check_decoder(plain)
    made = describe_in_memory(plain, tokenizer, name, "made by hand")
    return Model(plain, tokenizer, replace(made, bos=describe_bos(tokenizer, bos)), bos)

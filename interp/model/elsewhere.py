"""What a user of TransformerLens, nnsight or transformers types first, and what it is called here.

Names that a `Model` or a product of matrices has not, and arguments that their methods do not take.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import Parameter, Signature, isfunction, signature
from typing import Any, TypeVar

from interp.errors import UserError

ELSEWHERE = {
    # TransformerLens
    "run_with_cache": 'model.capture(prompts, "blocks.*.hook_resid_post")',
    "run_with_hooks": "with model.edit({site: function}): model.logits(prompts)",
    "add_hook": "with model.edit({site: function}): model.logits(prompts)",
    "hooks": "with model.edit({site: function}): model.logits(prompts)",
    "reset_hooks": "nothing: an edit ends with its context",
    "to_tokens": "model.encode(prompts)",
    "to_str_tokens": "model.str_tokens(prompt)",
    "to_string": "model.tokenizer.decode(ids)",
    "to_single_token": "model.token_id(text)",
    "to_single_str_token": "model.vocabulary[token_id]",
    "tokens_to_residual_directions": "model.W_U[:, token_id]",
    "cfg": "model.config (transformers'), model.n_layers, model.d_model",
    "hook_dict": "model.sites()",
    "blocks": 'model.sites("blocks.*"), which names them, or model.matrix("W_in", 3) for weights',
    "ln_final": 'model.sites("ln_final.*")',
    "embed": "model.W_E",
    "n_heads": "model.config.num_attention_heads",
    "n_ctx": "model.context_length",
    "d_head": "model.W_Q.shape[-1]",
    "d_mlp": "model.W_in.shape[-1]",
    "d_vocab": "model.config.vocab_size",
    # nnsight
    "trace": "model.capture(prompts, sites), or with model.edit({site: function})",
    "scan": "model.sites(), which names every place",
    "session": "with model.edit({site: function}), around as many calls as you like",
    "layers": 'model.sites("blocks.*"), or model.hf, the plain model',
    "transformer": "model.hf, the plain model, of which model.register_site names any module",
    "model": "model.hf, the plain model, of which model.register_site names any module",
    "lm_head": "model.W_U, or model.unembed(resid)",
    # transformers and torch
    "forward": "model.logits(prompts)",
    "to": "model.hf.to(device), and the hooks follow",
    "cuda": 'model.hf.to("cuda"), and the hooks follow',
    "cpu": 'model.hf.to("cpu"), and the hooks follow',
    "dtype": "model.hf.dtype",
    "eval": "model.hf.eval()",
    "train": "interp.fine_tune(model, …), or model.hf.train()",
    "parameters": "model.hf.parameters()",
    "named_parameters": "model.hf.named_parameters()",
    "modules": "model.hf.modules()",
    "named_modules": "model.hf.named_modules()",
    "state_dict": "model.hf.state_dict()",
    "save_pretrained": "model.hf.save_pretrained(folder), and model.tokenizer.save_pretrained(folder)",
    "tokenize": "model.encode(prompts)",
    "decode": "model.tokenizer.decode(ids)",
}

FACTORED = {
    "AB": "product.product, the whole matrix",
    "A": "product.left",
    "B": "product.right",
    "U": "product.svd()[0]",
    "S": "product.svd()[1]",
    "V": "product.svd()[2].T",
    "Vh": "product.svd()[2]",
    "eigenvalues": "torch.linalg.eigvals(product.right @ product.left), all that are not 0",
    "mT": "product.T",
}

# By method and argument; "" stands for arguments without a name, beyond those that it takes.
ARGUMENTS = {
    ("edit", ""): "write with model.edit({site: function}):",
    ("edit", "hooks"): "write with model.edit({site: function}):",
    ("edit", "fwd_hooks"): "write with model.edit({site: function}):",
    ("generate", ""): "name it: model.generate(prompts, max_new_tokens=20)",
    ("generate", "do_sample"): "temperature above 0 draws tokens, 0 takes the likeliest",
    ("generate", "top_p"): "choose among the likeliest with top_k, or with temperature",
    ("generate", "max_length"): "max_new_tokens counts the tokens that are new",
    ("generate", "max_tokens"): "it is called max_new_tokens",
    ("generate", "n"): "repeat the prompt instead: model.generate([prompt] * 5, temperature=1.0)",
    ("generate", "num_return_sequences"): "repeat the prompt instead: model.generate([prompt] * 5, temperature=1.0)",
    ("generate", "stop_at_eos"): "a prompt always ends at an end-of-text token",
    ("generate", "freq_penalty"): "no token is penalised here",
    ("generate", "repetition_penalty"): "no token is penalised here",
    ("loss", "return_type"): "model.loss gives nats a token, model.logits gives logits",
    ("loss", "per_token"): "it is per token; .nanmean() is the mean",
    ("loss", "loss_per_token"): "it is per token; .nanmean() is the mean",
    ("loss", "reduction"): "it is per token; .nanmean() is the mean",
    ("logits", "return_type"): "model.loss gives nats a token, model.logits gives logits",
    ("capture", "names_filter"): 'name the sites: model.capture(prompts, "blocks.*.hook_resid_post")',
    ("capture", ""): "sites are one pattern or a list of them",
}
ANYWHERE = {
    "prepend_bos": "load_model(name, bos=...) decides that, or model.with_bos('always')",
    "add_special_tokens": "load_model(name, bos=...) decides that, or model.with_bos('always')",
    "padding_side": "padding='left' or 'right' where a method takes it; numbers do not depend on it",
    "attention_mask": "give prompts of different lengths: padding is taken care of",
    "fwd_hooks": "use with model.edit({site: function}):",
    "names_filter": "use model.capture(prompts, sites)",
    "device": "model.hf.to(device) moves the model, and the hooks follow",
}

Kind = TypeVar("Kind", bound=type)


def refuse_name(owner: str, name: str, table: dict[str, str]) -> AttributeError:
    """The error for an attribute that is not there, with what it is called here where that is known."""
    if name in table:
        return AttributeError(f"a {owner} has no {name}; here it is called: {table[name]}")
    return AttributeError(f"{owner!r} object has no attribute {name!r}")


def says_what_it_takes(kind: Kind) -> Kind:
    """A class whose public methods raise UserError, in one line, for arguments that they do not take."""
    for name, method in list(vars(kind).items()):
        if isfunction(method) and not name.startswith("_"):
            setattr(kind, name, _checked(method))
    return kind


def _checked(method: Callable[..., Any]) -> Callable[..., Any]:
    takes = signature(method)

    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            takes.bind(*args, **kwargs)
        except TypeError as error:
            raise UserError(_line(method.__name__, takes, args, kwargs, str(error))) from None
        return method(*args, **kwargs)

    return call


def _line(name: str, takes: Signature, args: tuple[Any, ...], kwargs: dict[str, Any], error: str) -> str:
    own = [p.replace(annotation=Parameter.empty) for p in takes.parameters.values()][1:]
    expected = f"{name}{takes.replace(parameters=own, return_annotation=Signature.empty)}"
    wrong = [argument for argument in kwargs if argument not in takes.parameters]
    places = sum(p.kind is Parameter.POSITIONAL_OR_KEYWORD for p in own)
    if wrong:
        got = f"an argument {wrong[0]!r}"
        hint = ARGUMENTS.get((name, wrong[0])) or ANYWHERE.get(wrong[0], "")
    elif len(args) - 1 > places:
        got, hint = f"{len(args) - 1} arguments without a name", ARGUMENTS.get((name, ""), "name the others")
    else:
        got, hint = error.replace("missing a required argument: ", "no "), ""
    return f"model.{name} got {got}; expected {expected}{'; ' + hint if hint else ''}"

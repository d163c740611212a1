"""A chat prompt as the model's own template writes it, ready for an answer."""

from __future__ import annotations

from interp.errors import UserError
from interp.model.model import Model


def has_chat(model: Model) -> bool:
    """Was the model's tokenizer made for a conversation? A model without a template has never seen one."""
    return bool(getattr(model.tokenizer, "chat_template", None))


def chat_prompt(model: Model, message: str, begun: str = "") -> str:
    """The user's `message` and the opening of the model's turn, `begun` as its first words.

    A BOS that the template writes is taken away where `model.encode` adds one by itself: two of them change answers.
    Raises UserError for a model without a template, and for a message that its template refuses.
    """
    if not has_chat(model):
        raise UserError(f"{model.provenance.name} has no chat template: it was not made for a conversation")
    turn = [{"role": "user", "content": message}]
    try:
        written = str(model.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
    except Exception as error:  # a template is a program of the checkpoint's, and may raise what it likes
        line = " ".join(str(error).split())[:200]
        raise UserError(f"the chat template of {model.provenance.name} refuses the message: {line}") from error
    bos = str(model.tokenizer.bos_token or "")
    if bos and written.startswith(bos) and model.encode("a b")[0][0] == model.tokenizer.bos_token_id:
        written = written.removeprefix(bos)
    return written + begun

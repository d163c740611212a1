"""A chat prompt as the model's own template writes it, ready for an answer."""

from __future__ import annotations

from interp.model.model import Model


def has_chat(model: Model) -> bool:
    """Was the model's tokenizer made for a conversation? A model without a template has never seen one."""
    return bool(getattr(model.tokenizer, "chat_template", None))


def chat_prompt(model: Model, message: str, begun: str = "") -> str:
    """The user's `message` and the opening of the model's turn, `begun` as its first words.

    A BOS that the template writes is taken away where `model.encode` adds one by itself: two of them change answers.
    """
    written = str(
        model.tokenizer.apply_chat_template(
            [{"role": "user", "content": message}], tokenize=False, add_generation_prompt=True
        )
    )
    bos = str(model.tokenizer.bos_token or "")
    if bos and written.startswith(bos) and model.encode("a b")[0][0] == model.tokenizer.bos_token_id:
        written = written.removeprefix(bos)
    return written + begun

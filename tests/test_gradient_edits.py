"""Edits of gradients: against autograd written by hand on the plain model, and against paths that are cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from refusals import the_line
from torch import Tensor

from interp import Model, UserError, ablate, steer
from interp.model.choose import only
from interp.model.gradients import gradients_of

PROMPTS = ["The capital of France is Paris, and", "Mary had"]  # of different lengths
EARLY, MLP, Z = "blocks.0.hook_resid_pre", "blocks.1.hook_mlp_out", "blocks.1.attn.hook_z"


def metric(logits: Tensor, where: Any) -> Tensor:
    last = where.mask.sum(-1) - 1
    return logits[torch.arange(len(logits)), last, 5] - logits[torch.arange(len(logits)), last, 8]


def _by_hand(model: Model, prompt: str, module: str, change: Callable[[Tensor], Tensor], *, forward: bool) -> Tensor:
    """The gradient at the first block's input, by torch's own hooks on the plain module; `change` of what it gives."""
    plain: Any = model.hf
    leaves: list[Tensor] = []

    def cut(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        leaves.append((args[0] if args else kwargs["hidden_states"]).detach().requires_grad_(True))
        return ((leaves[0], *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": leaves[0]})

    def at(_: Any, __: Any, out: Any) -> Any:
        tensor = out[0] if isinstance(out, tuple) else out
        if forward:
            new = change(tensor)
        else:
            new = tensor.clone()
            new.register_hook(change)
        return (new, *out[1:]) if isinstance(out, tuple) else new

    handles = [
        plain.get_submodule("model.layers.0").register_forward_pre_hook(cut, with_kwargs=True),
        plain.get_submodule(module).register_forward_hook(at),
    ]
    try:
        with torch.enable_grad():
            logits = plain(torch.tensor(model.encode(prompt)), use_cache=False).logits[0, -1]
            (gradient,) = torch.autograd.grad(logits[5] - logits[8], leaves)
    finally:
        for handle in handles:
            handle.remove()
    return gradient[0]


@pytest.mark.parametrize(
    "change", [lambda g: g * 0, lambda g: g * -2, lambda g: g + 0.5], ids=["zero", "reverse", "push"]
)
def test_an_edited_gradient_is_what_autograd_says_by_hand(
    tiny_llama: Model, change: Callable[[Tensor], Tensor]
) -> None:
    with tiny_llama.edit(gradients={MLP: lambda gradient, _: change(gradient)}) as receipts:
        edited = gradients_of(tiny_llama, PROMPTS, EARLY, metric)
    plain = gradients_of(tiny_llama, PROMPTS, EARLY, metric)
    for i, prompt in enumerate(PROMPTS):
        expected = _by_hand(tiny_llama, prompt, "model.layers.1.mlp", change, forward=False)
        n = len(expected)
        size = float(expected.abs().max())
        assert float((edited.gradients[EARLY][i, :n] - expected).abs().max()) < 1e-4 * size
        assert float((plain.gradients[EARLY][i, :n] - expected).abs().max()) > 1e-2 * size, "the edit did something"
    torch.testing.assert_close(edited.values, plain.values)  # the forward stays as it was
    (receipt,) = receipts.values()
    assert receipt.fired
    assert receipt.seen == int(edited.acts.mask.sum())
    assert receipt.changed


def test_no_gradient_at_one_head_is_that_path_stopped(tiny_llama: Model) -> None:
    """A head held at its own values passes no gradient either."""
    own = tiny_llama.capture(PROMPTS, Z)[Z]

    def hold(value: Tensor, where: Any) -> Tensor:
        kept = own[where.prompts, : value.shape[1]].nan_to_num()
        return torch.where(torch.arange(value.shape[2])[:, None] == 1, kept, value)

    with tiny_llama.edit(gradients={Z: only(ablate(), heads=1)}):
        zeroed = gradients_of(tiny_llama, PROMPTS, EARLY, metric)
    with tiny_llama.edit({Z: hold}):
        stopped = gradients_of(tiny_llama, PROMPTS, EARLY, metric)
    with tiny_llama.edit(gradients={Z: only(ablate(), heads=2)}):
        other = gradients_of(tiny_llama, PROMPTS, EARLY, metric)
    real = zeroed.acts.mask
    torch.testing.assert_close(zeroed.gradients[EARLY][real], stopped.gradients[EARLY][real], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(zeroed.gradients[EARLY][real], other.gradients[EARLY][real], atol=1e-4)


def test_it_goes_with_an_edit_of_the_activation(tiny_llama: Model) -> None:
    push = torch.linspace(-1, 1, 32)
    with tiny_llama.edit({MLP: steer(push, 2.0)}, gradients={MLP: ablate()}) as receipts:
        both = gradients_of(tiny_llama, PROMPTS, EARLY, metric)
    assert len(receipts) == 2
    assert all(receipt.fired for receipt in receipts.values())
    with tiny_llama.edit({MLP: steer(push, 2.0)}):
        forward_only = gradients_of(tiny_llama, PROMPTS, EARLY, metric)
    torch.testing.assert_close(both.values, forward_only.values)
    expected = []
    for prompt in PROMPTS:  # by hand: the steered output without its gradient
        steered = lambda t: (t + 2 * push).detach()  # noqa: E731
        expected.append(_by_hand(tiny_llama, prompt, "model.layers.1.mlp", steered, forward=True))
    for i, gradient in enumerate(expected):
        torch.testing.assert_close(both.gradients[EARLY][i, : len(gradient)], gradient, atol=1e-5, rtol=1e-4)


def test_one_that_never_fires_or_has_another_shape_is_one_line(tiny_llama: Model) -> None:
    idle, short = ablate(), lambda gradient, _: gradient[..., :3]
    never = pytest.raises(UserError, match=r"never fired: .*a gradient is edited in gradients_of")
    with never as raised, tiny_llama.edit(gradients={MLP: idle}):
        tiny_llama.logits(PROMPTS)  # no gradient flows
    the_line(raised)
    shape = pytest.raises(UserError, match=r"returned shape .*; expected")
    with shape as raised, tiny_llama.edit(gradients={MLP: short}):
        gradients_of(tiny_llama, PROMPTS, EARLY, metric)
    the_line(raised)
    with pytest.raises(UserError, match="unknown site"):
        tiny_llama.edit(gradients={"blocks.1.hook_mlp_ouy": ablate()}).__enter__()
    with pytest.raises(UserError, match=r"expected \{site or pattern: edit\}"):
        tiny_llama.edit(gradients={}).__enter__()
    assert not tiny_llama.is_edited


def test_a_prompts_gradient_does_not_depend_on_its_batch(tiny_llama: Model) -> None:
    with tiny_llama.edit(gradients={Z: only(ablate(), pos=-1)}):
        together = gradients_of(tiny_llama, PROMPTS, EARLY, metric).gradients[EARLY]
        alone = gradients_of(tiny_llama, PROMPTS, EARLY, metric, batch_size=1).gradients[EARLY]
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4, equal_nan=True)

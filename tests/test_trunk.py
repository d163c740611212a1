"""The plain trunk gives what the hooked tree gives, on every architecture, and only where it does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tiny import PLACES

from interp import Model, UserError
from interp.model.hooks import trunk
from interp.model.hooks.trunk import Tap, find_taps, read_trunk

ROWS = [[5, 6, 7, 8, 9], [9, 8, 7], [4, 4]]


def padded(rows: list[list[int]]) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [0] * (width - len(row)) for row in rows])


def read(model: Model, taps: dict[str, Tap]) -> dict[str, torch.Tensor]:
    seen: dict[str, torch.Tensor] = {}
    read_trunk(model, padded(ROWS), taps, lambda site, value: seen.update({site: value.clone()}))
    return seen


@pytest.mark.parametrize("architecture", [*PLACES, "mamba"])
def test_the_trunk_agrees_with_the_hooked_tree(tiny_of: Callable[[str], Model], architecture: str) -> None:
    model = tiny_of(architecture)
    taps = find_taps(model, model.sites())
    residual = model.sites("blocks.*.hook_resid_p*")
    assert set(residual) <= set(taps), "the residual stream is never slow"
    hooked, plain = model.capture(ROWS, list(taps)), read(model, taps)
    assert set(plain) == set(taps)
    for site in taps:
        for i, row in enumerate(ROWS):
            ours, theirs = plain[site][i, : len(row)], hooked[site][i, : len(row)]
            assert torch.allclose(ours, theirs, atol=1e-4, rtol=1e-4), site


def test_no_hook_stays_and_the_forward_ends_with_the_last_block_that_is_needed(make_tiny: Callable[..., Model]) -> None:
    model = make_tiny("llama")
    taps, ran = find_taps(model, ["blocks.0.hook_resid_post"]), []
    handle = model.hf.base_model.layers[1].register_forward_hook(lambda *_: ran.append(1))  # type: ignore[attr-defined]
    read(model, taps)
    assert not ran
    handle.remove()

    def spoil(site: str, value: torch.Tensor) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        read_trunk(model, padded(ROWS), find_taps(model, ["blocks.0.hook_mlp_out"]), spoil)
    assert not [h for m in model.hf.modules() for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]


def test_a_module_that_shows_something_else_is_no_tap(
    make_tiny: Callable[..., Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planted fault: the place of one site is another module's. The comparison must throw it out."""
    model = make_tiny("gpt2")
    right = trunk._vector_tap

    def wrong(model: Model, site: str) -> Tap | None:
        return right(model, "blocks.1.hook_mlp_out" if site == "blocks.0.hook_mlp_out" else site)

    monkeypatch.setattr(trunk, "_vector_tap", wrong)
    found = find_taps(model, ["blocks.0.hook_mlp_out", "blocks.0.hook_attn_out"])
    assert list(found) == ["blocks.0.hook_attn_out"]


def test_a_site_that_is_never_reached_is_an_error(make_tiny: Callable[..., Model]) -> None:
    model = make_tiny("gpt2")
    with pytest.raises(RuntimeError, match=r"never reached blocks\.9"):
        read_trunk(model, padded(ROWS), {"blocks.9.x": Tap(torch.nn.Identity(), False)}, lambda site, value: None)
    model.hf.train()
    with pytest.raises(UserError, match="training mode"):
        read_trunk(model, padded(ROWS), {}, lambda site, value: None)

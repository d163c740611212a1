"""Parity checks what users get: the engine that runs for them, and where their edits are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from architecture_kinds import build
from architectures import ARCHITECTURES
from torch import Tensor

from interp import Model
from interp.cli import dispatch
from interp.model.checking.parity import PROMPTS, ParityResult, check_as_users, check_parity
from interp.model.hooks import engines, forward, tree
from interp.model.hooks.engines import Ran
from interp.model.provenance import describe_in_memory

SHORT = PROMPTS[1:2]
REFUSED = "an edit is refused only where the model cannot take it"


def wrong(result: ParityResult) -> list[str]:
    return [what for what, does in result.behaviour.items() if not does]


def wrong_for_users(model: Model) -> list[str]:
    """The last part of parity alone."""
    asked = check_as_users(model, model.encode(SHORT), lambda *_: None)
    return [what for what, does in asked.items() if not does]


def louder_logits(patch: pytest.MonkeyPatch) -> None:
    run = forward.run_plain

    def louder(*given: Any, **how: Any) -> Ran:
        ran = run(*given, **how)
        return Ran(ran.logits * 1.05, ran.cache)

    patch.setattr(forward, "run_plain", louder)


def the_next_blocks_tap(patch: pytest.MonkeyPatch) -> None:
    tap = forward._tap
    patch.setattr(forward, "_tap", lambda tree, site: tap(tree, site.replace("blocks.0.", "blocks.1.")))


def heads_in_another_order(patch: pytest.MonkeyPatch) -> None:
    """Of `hook_z` alone, whose heads the plain model keeps in one axis."""
    tap = forward._tap

    def other(tree: Any, site: str) -> Any:
        right = tap(tree, site)
        return replace(right, heads=right.heads[::-1]) if right.heads else right

    patch.setattr(forward, "_tap", other)


def edits_that_the_plain_model_does_not_take(patch: pytest.MonkeyPatch) -> None:
    run = forward.run_plain

    def deaf(hf: Any, batch: Any, at: Any, **how: Any) -> Ran:
        return run(hf, batch, [(tap, lambda value, f=f: (f(value), None)[1]) for tap, f in at], **how)

    patch.setattr(forward, "run_plain", deaf)


def logits_of_the_token_before_the_last(patch: pytest.MonkeyPatch) -> None:
    right = engines.chosen

    def early(values: Tensor, batch: Any, keep: Any) -> Tensor:
        return right(values.roll(1, 1), batch, keep)

    patch.setattr(engines, "chosen", early)


FAULTS = {
    louder_logits: "logits and last_logits are plain transformers', as users get it",
    the_next_blocks_tap: "values by the plain model are the hooked model's, as users get it",
    heads_in_another_order: "values by the plain model are the hooked model's, as users get it",
    edits_that_the_plain_model_does_not_take: "edits by the plain model are the hooked model's, as users get it",
    logits_of_the_token_before_the_last: "logits and last_logits are plain transformers', as users get it",
}


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_engine_that_users_get_is_found(
    make_tiny: Callable[..., Model],
    passes_parity: Callable[[str], bool],
    monkeypatch: pytest.MonkeyPatch,
    architecture: str,
    fault: Any,
) -> None:
    assert passes_parity(architecture)
    fault(monkeypatch)
    found = wrong_for_users(make_tiny(architecture))
    assert [what for what in found if what.startswith(FAULTS[fault])], found


def test_a_tap_of_the_wrong_block_is_found_by_the_kinds_that_it_changes(
    make_tiny: Callable[..., Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    the_next_blocks_tap(monkeypatch)
    result = check_parity(make_tiny("llama"), SHORT)
    assert not result.ok
    (values,) = [what for what in wrong(result) if what.startswith("values")]
    assert values in wrong_for_users(make_tiny("llama"))
    for kind in ("hook_resid_pre", "hook_resid_post", "hook_mlp_out", "attn.hook_z"):
        assert f"blocks.*.{kind}" in values


@pytest.mark.parametrize("kept", [("hook_mlp_out",), ("hook_resid_post", "hook_resid_pre", "hook_mlp_out")])
def test_edits_that_are_refused_without_need_are_found(
    make_tiny: Callable[..., Model], monkeypatch: pytest.MonkeyPatch, kept: tuple[str, ...]
) -> None:
    monkeypatch.setattr(tree, "has_effect", lambda bridge, name, *given: name.endswith(kept))
    result = check_parity(make_tiny("gpt2"), SHORT)
    assert not result.ok
    (line,) = [what for what in wrong(result) if what.startswith(REFUSED)]
    for kind in (
        "hook_attn_out",
        "attn.hook_pattern",
        "ln1.hook_scale",
    ):  # the last two: in no plain module
        assert f"blocks.*.{kind}" in line
    assert not [kind for kind in kept if f"blocks.*.{kind}" in line]
    assert "would change nothing" in result.not_editable["blocks.*.hook_attn_out"]


def test_one_kind_that_is_refused_without_need_is_named(
    make_tiny: Callable[..., Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    true = tree.has_effect
    monkeypatch.setattr(tree, "has_effect", lambda *given: not given[1].endswith("hook_resid_post") and true(*given))
    assert f"{REFUSED} (not blocks.*.hook_resid_post)" in wrong(check_parity(make_tiny("llama"), SHORT))


def test_edits_that_are_rightly_refused_are_named_with_the_reason_and_fail_nothing(
    make_tiny: Callable[..., Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = check_parity(make_tiny("llama"), SHORT)
    assert result.ok
    assert [*result.not_editable] == ["rotary_emb.hook_in"]
    assert "shows the value there and does not read it back" in result.not_editable["rotary_emb.hook_in"]
    monkeypatch.setattr("interp.model.hooks.midstream.passes_the_mlp", lambda tree: set())
    refused = check_parity(make_tiny("llama"), SHORT)
    assert not refused.ok, "a stream that goes past the MLP can be changed"
    assert f"{REFUSED} (not blocks.*.hook_resid_mid)" in wrong(refused)


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("bloom_post_norm", {"blocks.*.hook_resid_mid": "a change has no one meaning"}),
        (
            "opt_350m",
            {
                "blocks.*.hook_resid_mid": "TransformerLens cannot edit",
                "blocks.*.attn.hook_pattern": "shows the value there and does not read it back",
                "blocks.*.ln2.hook_out": "TransformerLens cannot edit",
            },
        ),
    ],
)
def test_architectures_that_cannot_take_an_edit_pass(tiny_gpt2: Model, name: str, reasons: dict[str, str]) -> None:
    hf = build(ARCHITECTURES[name], len(tiny_gpt2.tokenizer), eager=False)
    model = Model(hf, tiny_gpt2.tokenizer, describe_in_memory(hf, tiny_gpt2.tokenizer, name, "made by hand"))
    result = check_parity(model, SHORT)
    assert result.ok, wrong(result)
    assert {*result.not_editable} == {*reasons}
    for kind, reason in reasons.items():
        assert reason in result.not_editable[kind]


def test_a_model_where_no_edit_could_be_compared_fails(
    make_tiny: Callable[..., Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interp.model.checking.edited.find_tap", lambda *_: None)
    monkeypatch.setattr("interp.model.checking.edited.find_nested_tap", lambda *_: None)
    assert "and does to them what it does in plain transformers" in wrong(check_parity(make_tiny("gpt2"), SHORT))


def test_the_command_prints_what_cannot_be_edited(
    make_tiny: Callable[..., Model], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_tiny("llama")
    monkeypatch.setattr("interp.cli.models.ParityOptions.load", lambda _: model)
    assert dispatch(["parity"]) == 0
    told = capsys.readouterr().out
    assert "not editable here: rotary_emb.hook_in: " in told
    assert "logits and last_logits are plain transformers', as users get it: ok" in told
    monkeypatch.setattr(tree, "has_effect", lambda bridge, name, *given: name.endswith("hook_mlp_out"))
    model = make_tiny("llama")
    assert dispatch(["parity"]) == 1
    assert f"{REFUSED} (not " in capsys.readouterr().out


def test_parity_leaves_nothing_forced(make_tiny: Callable[..., Model]) -> None:
    model = make_tiny("gpt2")
    before = model.logits(SHORT)
    check_parity(model, SHORT)
    assert model.tree.engine is None
    assert torch.equal(model.logits(SHORT).nan_to_num(), before.nan_to_num())

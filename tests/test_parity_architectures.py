"""Parity says OFF for faults only: architectures that break a textbook identity pass, and their faults are found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from architecture_kinds import build
from architectures import ARCHITECTURES
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from interp import Model
from interp.model.checking.parity import PROMPTS, Compared, ParityResult, check_parity, compare_values
from interp.model.provenance import describe_in_memory

SHORT = PROMPTS[1:2]
ADDS, MIXES, SOFTMAX, KEEPS = "resid_pre + attn_out + mlp_out", "pattern @ v = z", "softmax = pattern", "keeps norms"
PROMISED = {  # what is not asked, because plain transformers itself breaks it there
    "gemma3": [],
    "gpt_oss": [SOFTMAX, KEEPS],
    "llama_yarn": [KEEPS],
    "qwen3_next": [MIXES],
    "qwen3_5": [MIXES],
    "afmoe": [MIXES],
    "bitnet": [MIXES],
    "opt_350m": [ADDS],
    "bloom_post_norm": [ADDS],
    "olmo_clip": [MIXES, KEEPS],
    "mpt_clip": [MIXES],
    "granite": [],
    "granite_moe": [],
    "falcon_h1": [ADDS],
    "gemma4": [ADDS, MIXES],
    "lfm2": [ADDS],
    "jamba": [ADDS],
    "bamba": [ADDS],
    "mamba2": [],
    "jetmoe": [],
    "modernbert_decoder": [],
}
OFTEN = ("gemma3", "gpt_oss", "qwen3_5", "granite", "jamba", "mpt_clip")


@pytest.fixture(scope="module")
def made(tiny_gpt2: Model) -> Callable[[str], Model]:
    tokenizer: PreTrainedTokenizerBase = tiny_gpt2.tokenizer

    def make(name: str) -> Model:
        hf = build(ARCHITECTURES[name], len(tokenizer), eager=False)
        return Model(hf, tokenizer, describe_in_memory(hf, tokenizer, name, "made by hand"))

    return make


def off(result: ParityResult | Compared) -> set[str]:
    return {kind.kind for kind in result.kinds if not kind.ok}


def said(result: ParityResult) -> str:
    lines = [f"{k.kind} {k.reference} {k.relative:.1e}" for k in result.kinds if not k.ok]
    return "; ".join([*lines, *result.unchecked, *(k for k, v in result.behaviour.items() if not v)])


@pytest.mark.parametrize("name", [n if n in OFTEN else pytest.param(n, marks=pytest.mark.slow) for n in PROMISED])
def test_an_identity_that_the_architecture_breaks_is_named_and_not_off(made: Callable[[str], Model], name: str):
    result = check_parity(made(name), SHORT)
    assert result.ok, said(result)
    for identity in PROMISED[name]:
        assert any(what.startswith(identity) for what in result.not_asked), f"{identity} was dropped without a word"
    for identity in {MIXES, SOFTMAX, KEEPS} - set(PROMISED[name]):
        reasons = [why for what, why in result.not_asked.items() if what.startswith(identity)]
        assert not [why for why in reasons if "plain transformers" in why], reasons


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_textbook_model_is_asked_every_identity(made: Callable[[str], Model], name: str):
    result = check_parity(made(name), SHORT)
    assert result.ok, said(result)
    assert [*result.not_asked] == ["whether an edit does what it does in plain transformers"]


def other_head(model: Model) -> None:
    change(model, "blocks.1.attn.hook_pattern", lambda pattern: pattern.roll(1, dims=1))


def z_of_another_pattern(model: Model) -> None:
    change(model, "blocks.1.attn.hook_z", lambda z: z.roll(1, dims=1))


def renormalised(model: Model) -> None:
    change(model, "blocks.1.attn.hook_pattern", lambda pattern: pattern / pattern.sum(-1, keepdim=True))


def louder_attention(model: Model) -> None:
    change(model, "blocks.0.hook_attn_out", lambda out: out * 1.01)


def longer_queries(model: Model) -> None:
    change(model, "blocks.1.attn.hook_rot_q", lambda q: q * 1.01)


def other_gate(model: Model) -> None:
    change(model, "blocks.1.attn.hook_q_gate", lambda gate: gate.roll(1, dims=-1))


def other_values(model: Model) -> None:
    change(model, "blocks.1.attn.hook_v", lambda v: v.roll(1, dims=2))


def the_other_table(model: Model) -> None:
    """Layer 2 has global attention; it gets what the local layers get."""
    points = model.tree.points
    for part in ("cos", "sin"):
        points[f"blocks.2.attn.hook_{part}"] = points[f"blocks.1.attn.hook_{part}"]


def change(model: Model, site: str, function: Callable[[Tensor], Tensor]) -> None:
    point: Any = model.tree.points[site]
    point.add_hook(lambda tensor, hook: function(tensor), is_permanent=True)


FAULTS = [
    ("llama", other_head, "blocks.*.attn.hook_pattern"),
    ("gpt2", other_head, "blocks.*.attn.hook_pattern"),
    ("jamba", other_head, "blocks.*.attn.hook_pattern"),
    ("llama", z_of_another_pattern, "blocks.*.attn.hook_z"),
    ("gpt_oss", renormalised, "blocks.*.attn.hook_pattern"),
    ("gpt_oss", longer_queries, "blocks.*.attn.hook_rot_q"),
    ("granite", louder_attention, "blocks.*.hook_attn_out"),
    ("qwen3_5", other_gate, "blocks.*.attn.hook_q_gate"),
    ("qwen3_5", z_of_another_pattern, "blocks.*.attn.hook_z"),
    ("mpt_clip", other_values, "blocks.*.attn.hook_v"),
    ("opt_350m", louder_attention, "blocks.*.hook_attn_out"),
    ("gemma3", the_other_table, "blocks.*.attn.hook_cos"),
]


@pytest.mark.parametrize(("name", "fault", "kind"), FAULTS)
def test_a_fault_planted_where_an_identity_is_not_promised_is_found(
    made: Callable[[str], Model], name: str, fault: Callable[[Model], None], kind: str
):
    model = made(name)
    fault(model)
    assert kind in off(compare_values(model, model.encode(SHORT)))


@pytest.mark.parametrize("name", ["lfm2", "llama"])
def test_attention_without_a_pattern_in_the_hooks_is_found(made: Callable[[str], Model], name: str):
    model = made(name)
    table, hidden = model.site_table, "blocks.1.attn.hook_pattern"
    axes = {site: axes for site, axes in table.axes.items() if site != hidden}
    listed = tuple(site for site in table.listed if site != hidden)
    model.tree._built["site_table"] = replace(table, listed=listed, axes=axes)
    result = check_parity(model, SHORT)
    assert [what for what, does in result.behaviour.items() if not does] == [
        "a pattern in every layer where transformers reports one (not layer 1)"
    ]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_new_site_that_nothing_checks_fails_a_textbook_model(made: Callable[[str], Model], name: str):
    model = made(name)
    table, new = model.site_table, ("blocks.0.attn.hook_new", "blocks.0.hook_new", "blocks.0.part.hook_new", "hook_new")
    model.tree.points.update(dict.fromkeys(new, model.tree.points["blocks.0.hook_mlp_out"]))
    model.tree._built["site_table"] = replace(
        table,
        listed=(*table.listed, *new),
        axes=table.axes | dict.fromkeys(new, table.axes["blocks.0.hook_mlp_out"]),
        origin=table.origin | dict(zip(new, new, strict=True)),
    )
    result = check_parity(model, SHORT)
    assert result.unchecked == tuple(sorted(new))
    assert not result.ok


@pytest.mark.parametrize("name", ["qwen3_moe", "qwen3"])
def test_a_prompt_of_as_many_tokens_as_heads_is_read_in_the_right_order(made: Callable[[str], Model], name: str):
    model = made(name)
    result = check_parity(model, [[5, 6, 7, 8]])
    assert result.ok, said(result)
    change(model, "blocks.1.attn.q_norm.hook_out", lambda q: q.roll(1, dims=1))
    assert off(compare_values(model, [[5, 6, 7, 8]]))


def test_latent_attention_with_chosen_keys_has_a_verdict_and_no_traceback(made: Callable[[str], Model]):
    result = check_parity(made("glm_moe_dsa"), SHORT)
    wrong = {(kind.kind, kind.reference) for kind in result.kinds if not kind.ok}
    assert wrong <= {("blocks.*.attn.hook_z", "as many heads as the plain pattern")}
    assert all(result.behaviour.values()), said(result)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nanochat", "ln_final.hook_out"),
        pytest.param("rwkv", "blocks.*.channel_mix.in.hook_in", marks=pytest.mark.slow),
    ],
)
def test_true_faults_of_the_hooks_stay_off(made: Callable[[str], Model], name: str, kind: str):
    model = made(name)
    assert kind in off(compare_values(model, model.encode(SHORT)))


def test_an_edit_that_is_not_what_plain_transformers_makes_of_it_is_found(
    made: Callable[[str], Model], monkeypatch: pytest.MonkeyPatch
):
    model = made("llama")
    edit = model.edit

    def twice(edits: dict[str, Any]) -> Any:
        return edit({site: lambda a, where, f=f: f(f(a, where), where) for site, f in edits.items()})

    monkeypatch.setattr(model, "edit", twice)
    behaviour = check_parity(model, SHORT).behaviour
    wrong = [what for what, does in behaviour.items() if not does]
    assert len(wrong) == 2
    assert wrong[0].startswith("and does to them what it does in plain transformers (not ")
    assert wrong[1].startswith("edits by the plain model are the hooked model's, as users get it (not ")
    for line in wrong:
        assert "blocks.*.hook_resid_post" in line


def test_the_plain_model_and_transformers_are_left_as_they_were(made: Callable[[str], Model]):
    model = made("llama")
    from transformers.models.llama import modeling_llama

    before = modeling_llama.eager_attention_forward, model.hf.config._attn_implementation
    check_parity(model, SHORT)
    assert (modeling_llama.eager_attention_forward, model.hf.config._attn_implementation) == before
    assert not [hook for module in model.hf.modules() for hook in module._forward_hooks.values()]

"""A model that somebody changes after its hooks were built: the numbers are the changed model's, on either engine.

Numbers of the old weights under the new ones' name are the worst that a toolkit can give.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from compare import far
from hub import tiny_gpt2 as write_tiny_gpt2
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune

from interp import Model, UserError, ablate, load_model, plan_capture
from interp.analysis import score_answers
from interp.edits import scale
from interp.model.hooks import tree as tree_module
from interp.model.hooks.forward import engine_for

PROMPTS = ["The capital of France is", "Mary"]
SITE = "blocks.1.hook_resid_post"


def plain(model: Model, prompt: str) -> torch.Tensor:
    with torch.no_grad():
        return model.hf(torch.tensor(model.encode([prompt]), device=model.device)).logits[0]


class LoRA(nn.Module):
    """An adapter as PEFT's: beside a matrix, by name, switched on and off by plain attributes."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.down = nn.ModuleDict({name: nn.Linear(base.in_features, 2, bias=False) for name in ("one", "two")})
        self.up = nn.ModuleDict({name: nn.Linear(2, base.out_features, bias=False) for name in ("one", "two")})
        self._active_adapter = ["one"]
        self._disable_adapters = False

    @property
    def weight(self) -> torch.Tensor:
        return self.base_layer.weight

    @property
    def bias(self) -> Any:
        return self.base_layer.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.base_layer(x)
        for name in () if self._disable_adapters else self._active_adapter:
            out = out + self.up[name](self.down[name](x))
        return out


def adapters(model: Model) -> list[LoRA]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = []
        for layer in model.hf.model.layers:  # type: ignore[union-attr]
            layer.mlp.down_proj = LoRA(layer.mlp.down_proj)  # type: ignore
            made.append(layer.mlp.down_proj)
    return made  # type: ignore[return-value]


def assert_followed(model: Model) -> torch.Tensor:
    """Logits, captures, scores and text are the plain model's, whichever engine runs; gives the logits."""
    expected = plain(model, PROMPTS[0])
    for forced in (False, True):
        if forced:
            with model.tree.hooked_only():
                logits, acts = model.logits(PROMPTS), model.capture(PROMPTS, SITE)
        else:
            logits, acts = model.logits(PROMPTS), model.capture(PROMPTS, SITE)
        assert far(logits[0, : len(expected)], expected) < 1e-4
        assert far(model.unembed(acts.last(SITE))[0], expected[-1]) < 1e-4
    first = model.encode([PROMPTS[0] + " a"])[0][len(model.encode([PROMPTS[0]])[0])]
    scored = score_answers(model, PROMPTS[:1], [" a"]).summed[0, 0]
    if len(model.encode([PROMPTS[0] + " a"])[0]) == len(model.encode([PROMPTS[0]])[0]) + 1:
        assert far(scored, expected[-1].log_softmax(-1)[first]) < 1e-3
    assert model.generate(PROMPTS[:1], max_new_tokens=1).ids[0][0] == int(expected[-1].argmax())
    return expected


CHANGES: dict[str, Callable[[Model], object]] = {
    "a module is swapped": lambda m: setattr(m.hf.model.layers[1].mlp, "act_fn", nn.ReLU()),  # type: ignore
    "weights through .data in place": lambda m: m.hf.model.layers[0].self_attn.q_proj.weight.data.mul_(2),  # type: ignore
    "weights through .data": lambda m: setattr(
        m.hf.model.layers[0].mlp.up_proj.weight,  # type: ignore
        "data",
        m.hf.model.layers[0].mlp.up_proj.weight.data * 2,  # type: ignore
    ),
    "a hook of the user's": lambda m: m.hf.model.layers[0].register_forward_hook(lambda _, __, out: out * 1.5),  # type: ignore
    "a method is replaced": lambda m: setattr(
        m.hf.model.norm,  # type: ignore
        "forward",
        lambda x: 2.0 * x,
    ),
    "a setting": lambda m: setattr(m.hf.model.layers[0].input_layernorm, "variance_epsilon", 0.5),  # type: ignore
    "a buffer in place": lambda m: m.hf.model.rotary_emb.inv_freq.mul_(0.3),  # type: ignore
    "a buffer is replaced": lambda m: setattr(
        m.hf.model.rotary_emb,  # type: ignore
        "inv_freq",
        m.hf.model.rotary_emb.inv_freq * 0.3,  # type: ignore
    ),
    "layers are cut": lambda m: setattr(m.hf.model, "layers", m.hf.model.layers[:2]),  # type: ignore
    "the embedding in place": lambda m: m.hf.model.embed_tokens.weight.data.add_(0.5),  # type: ignore
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_followed(make_tiny: Callable[..., Model], change: str) -> None:
    model = make_tiny("llama")
    before = assert_followed(model)
    name = model.provenance.weights
    CHANGES[change](model)
    after = assert_followed(model)
    if change != "layers are cut":
        assert far(after, before) > 1e-3, "negative control: the change changes something"
    if "in place" not in change and change != "layers are cut":
        assert model.provenance.weights != name, "a store must not be written under the old weights' name"
        assert model.provenance.name.endswith(", changed")


class Louder:
    """A hook with a state of its own."""

    def __init__(self) -> None:
        self.by = 1.0

    def __call__(self, _: Any, __: Any, out: Any) -> Any:
        return (out[0] * self.by, *out[1:]) if isinstance(out, tuple) else out * self.by


@pytest.mark.parametrize("module", ["layers.0.mlp", "layers.0.self_attn", "layers.0", "norm"])
def test_a_users_hook_that_acts_later_is_followed_or_refused(make_tiny: Callable[..., Model], module: str) -> None:
    model, hook = make_tiny("llama"), Louder()
    model.hf.model.get_submodule(module).register_forward_hook(hook)  # type: ignore[union-attr,operator]
    before = assert_followed(model)
    hook.by = 1.5
    if module == "layers.0.self_attn":  # the hooked tree does not run this module's hooks
        with pytest.raises(UserError, match="no number from its hooks can be trusted"):
            assert_followed(model)
        assert far(model.logits(PROMPTS[:1])[0], plain(model, PROMPTS[0])) < 1e-4
    else:
        assert far(assert_followed(model), before) > 1e-3


def test_pruning_is_followed_without_building_hooks_anew_each_time(
    make_tiny: Callable[..., Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_tiny("llama")
    matrix = model.hf.model.layers[0].mlp.up_proj  # type: ignore[union-attr]
    prune.identity(matrix, "weight")
    before = assert_followed(model)
    matrix.weight_mask[:, ::2] = 0
    assert far(assert_followed(model), before) > 1e-3
    built: list[int] = []
    build = tree_module.build_bridge
    monkeypatch.setattr(tree_module, "build_bridge", lambda hf: built.append(1) or build(hf))
    assert_followed(model)
    assert_followed(model)
    assert not built
    matrix.weight_mask[:, 1::2] = 0
    assert_followed(model)
    assert built == [1]


@pytest.mark.parametrize(
    ("architecture", "setting", "value"), [("mistral", "sliding_window", 2), ("gemma2", "final_logit_softcapping", 1.0)]
)
def test_a_setting_of_the_config_is_followed(
    make_tiny: Callable[..., Model], architecture: str, setting: str, value: float
) -> None:
    model = make_tiny(architecture)
    with model.tree.hooked_only():
        model.logits(PROMPTS)
    setattr(model.hf.config, setting, value)
    expected = plain(model, PROMPTS[0])
    with model.edit({SITE: scale(1.0)}), model.tree.hooked_only():
        assert far(model.logits(PROMPTS)[0, : len(expected)], expected) < 1e-4
    assert model.provenance.name.endswith(", changed")


def test_what_was_asked_before_any_hook_was_built_is_asked_again_after_a_change(
    make_tiny: Callable[..., Model],
) -> None:
    model = make_tiny("llama")
    model.generate(PROMPTS, max_new_tokens=2)  # the plain model has a cache and may be padded

    def of_all_positions(_: Any, __: Any, out: torch.Tensor) -> torch.Tensor:
        return out + out.mean(1, keepdim=True)

    model.hf.model.layers[0].register_forward_hook(of_all_positions)  # type: ignore[union-attr,index]
    row = model.encode(PROMPTS[:1])[0]
    made = model.generate([row], max_new_tokens=4).ids[0]
    whole = list(row)
    with torch.no_grad():
        for _ in made:
            whole.append(int(model.hf(torch.tensor([whole])).logits[0, -1].argmax()))
    assert made == whole[len(row) :]
    together = model.last_logits(PROMPTS)
    for i, prompt in enumerate(PROMPTS):
        assert far(together[i], plain(model, prompt)[-1]) < 1e-4


def test_the_model_under_another_policy_of_bos_has_the_same_edits_and_sites(make_tiny: Callable[..., Model]) -> None:
    model = make_tiny("llama")
    model.register_site("my_site", "model.layers.0.mlp")
    row = model.encode(PROMPTS[:1])
    with model.edit({SITE: ablate()}):
        assert torch.equal(model.with_bos("never").logits(row), model.logits(row))
        assert model.with_bos("never").is_edited
    assert "my_site" in model.with_bos("never").sites()


def test_an_adapter_of_learned_prompts_is_refused(make_tiny: Callable[..., Model]) -> None:
    peft = pytest.importorskip("peft")
    model = make_tiny("llama")
    for config in (
        peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    ):
        wrapped = peft.get_peft_model(model.hf, config)
        with pytest.raises(UserError, match="learned vectors in front of every prompt"):
            Model(wrapped, model.tokenizer, model.provenance)


def test_a_model_in_double_precision_is_as_any_other(make_tiny: Callable[..., Model]) -> None:
    model = make_tiny("gpt2")
    model.hf.double()
    assert model.pads("left")
    assert model.W_Q.dtype == torch.float64
    assert far(model.logits(PROMPTS, padding="left")[1, -1], plain(model, PROMPTS[1])[-1]) < 1e-6
    assert engine_for(model.tree, [SITE]) == "plain"


def test_adapters_are_followed_when_they_are_switched(make_tiny: Callable[..., Model]) -> None:
    model = make_tiny("llama")
    base = assert_followed(model)
    layers = adapters(model)
    one = assert_followed(model)
    names = [model.provenance.weights]
    for layer in layers:
        layer._active_adapter = ["two"]
    two = assert_followed(model)
    names.append(model.provenance.weights)
    for layer in layers:
        layer._disable_adapters = True
    assert far(assert_followed(model), base) < 1e-5
    assert far(two, one) > 1e-2
    assert names[0] != names[1]
    plan = plan_capture(model, PROMPTS, SITE)[0]
    assert plan.model["weights"] not in names


def test_an_edit_stays_active_while_the_model_is_changed(make_tiny: Callable[..., Model]) -> None:
    model = make_tiny("llama")
    with model.edit({"blocks.0.hook_mlp_out": ablate()}) as receipts:
        model.logits(PROMPTS)
        adapters(model)
        with_adapter = model.logits(PROMPTS)
        with model.tree.hooked_only():
            assert far(model.logits(PROMPTS), with_adapter) < 1e-4
    assert receipts["blocks.0.hook_mlp_out"].fired == 3


def test_a_move_to_another_dtype_is_followed_and_said(make_tiny: Callable[..., Model]) -> None:
    model = make_tiny("llama")
    before = model.logits(PROMPTS)
    weights = model.provenance.weights
    model.hf.double()
    assert far(model.logits(PROMPTS), before) < 1e-4
    assert model.logits(PROMPTS).dtype == torch.float64
    assert (model.provenance.dtype, model.provenance.weights) == ("float64", weights)


def test_registered_sites_stay_when_the_hooks_are_built_anew(make_tiny: Callable[..., Model]) -> None:
    model = make_tiny("llama")
    model.register_site("blocks.*.mlp.hook_act", "model.layers.*.mlp.act_fn")
    before = model.capture(PROMPTS, "blocks.0.mlp.hook_act")["blocks.0.mlp.hook_act"]
    model.hf.model.layers[0].mlp.act_fn = nn.ReLU()  # type: ignore
    after = model.capture(PROMPTS, "blocks.0.mlp.hook_act")["blocks.0.mlp.hook_act"]
    assert float(after.nan_to_num().min()) == 0 > float(before.nan_to_num().min())


def test_an_adapter_is_loaded_and_names_itself(tmp_path: Path) -> None:
    """Base against adapter is one line each; the weights' name is of both."""
    folder = write_tiny_gpt2(tmp_path / "base")
    base = load_model(folder, "cpu")
    width = base.d_model
    made = torch.Generator().manual_seed(0)
    key = "base_model.model.transformer.h.0.mlp.c_proj"
    a, b = torch.randn(2, 4 * width, generator=made), torch.randn(width, 2, generator=made)
    (tmp_path / "lora").mkdir()
    save_file({f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b}, tmp_path / "lora/adapter_model.safetensors")
    (tmp_path / "lora/adapter_config.json").write_text(
        '{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["h.0.mlp.c_proj"], "fan_in_fan_out": true}'
    )
    adapted = load_model(folder, "cpu", adapter=tmp_path / "lora")
    weight = adapted.hf.transformer.h[0].mlp.c_proj.weight  # type: ignore[union-attr]
    assert far(weight, base.hf.transformer.h[0].mlp.c_proj.weight + 2 * (b @ a).T) < 1e-5  # type: ignore
    assert far(adapted.logits(PROMPTS)[0], base.logits(PROMPTS)[0]) > 1e-2
    assert adapted.provenance.weights != base.provenance.weights
    assert adapted.provenance.name.endswith("base + lora")
    assert adapted.provenance.adapter is not None
    assert base.provenance.adapter is None

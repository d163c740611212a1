"""LoRA adapters: merged as W + scale * B @ A, by hand and as peft itself does, and every refusal by its line."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from refusals import the_line
from safetensors.torch import load_file, save_file
from tiny import tiny_hf
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from interp.errors import UserError
from interp.model.loading.adapter import identify_adapter, load_adapter

VOCAB, R, ALPHA = 60, 3, 6
IDS = torch.tensor([[5, 9, 11, 2, 40, 7]])
TARGETS = {  # fused and plain matrices
    "llama": ["q_proj", "v_proj", "down_proj"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "phi3": ["qkv_proj", "gate_up_proj"],
    "gpt_neox": ["query_key_value"],
}
CONFIG = {  # what peft 0.21 writes, of which most says nothing
    "alora_invocation_tokens": None,
    "alpha_pattern": {},
    "arrow_config": None,
    "auto_mapping": None,
    "base_model_name_or_path": "someone/base",
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "layers_to_transform": None,
    "loftq_config": {},
    "lora_alpha": ALPHA,
    "lora_bias": False,
    "lora_dropout": 0.1,
    "megatron_core": "megatron.core",
    "modules_to_save": None,
    "peft_type": "LORA",
    "peft_version": "0.21.2",
    "qalora_group_size": 16,
    "r": R,
    "rank_pattern": {},
    "task_type": "CAUSAL_LM",
    "use_dora": False,
    "use_rslora": False,
}


def write(
    folder: Path, hf: Any, targets: list[str], *, extra: dict[str, Tensor] | None = None, **settings: Any
) -> Path:
    """An adapter as peft's save_pretrained writes it."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for path, module in hf.named_modules():
        if path.rpartition(".")[2] in targets and isinstance(module, nn.Linear | Conv1D):
            rows, columns = reversed(module.weight.shape) if isinstance(module, Conv1D) else module.weight.shape
            for part, shape in (("A", (R, columns)), ("B", (rows, R))):
                key = f"base_model.model.{path}.lora_{part}.weight"
                tensors[key] = torch.randn(shape, generator=generator) * 0.2
    folder.mkdir(exist_ok=True)
    save_file(tensors | (extra or {}), folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | {"target_modules": targets} | settings))
    return folder


def by_hand(hf: Any, folder: Path, scale: float) -> dict[str, Tensor]:
    """The base's weights with scale * B @ A added, one by one."""
    state = {name: weight.clone() for name, weight in hf.state_dict().items()}
    tensors = load_file(folder / "adapter_model.safetensors")
    for key, a in tensors.items():
        if key.endswith("lora_A.weight"):
            module = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            delta = scale * tensors[key.replace("lora_A", "lora_B")] @ a
            turned = isinstance(hf.get_submodule(module), Conv1D)
            state[f"{module}.weight"] += delta.T if turned else delta
    return state


def far(state: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max(float((state[name] - other[name]).abs().max()) for name in other)


@pytest.mark.parametrize("architecture", list(TARGETS))
@pytest.mark.parametrize(("rslora", "scale"), [(False, ALPHA / R), (True, ALPHA / math.sqrt(R))])
def test_an_adapter_adds_its_product_to_each_matrix(tmp_path: Path, architecture: str, rslora: bool, scale: float):
    hf = tiny_hf(architecture, VOCAB)
    folder = write(tmp_path / "a", hf, TARGETS[architecture], use_rslora=rslora, fan_in_fan_out=architecture == "gpt2")
    expected, before = by_hand(hf, folder, scale), copy.deepcopy(hf.state_dict())
    merged = load_adapter(hf, folder, "tiny")
    assert merged is hf
    assert far(hf.state_dict(), expected) < 1e-5
    assert far(hf.state_dict(), before) > 0.1, "negative control"
    assert far(hf.state_dict(), by_hand(tiny_hf(architecture, VOCAB), folder, scale / 2)) > 0.1, "negative control"


@pytest.mark.parametrize("architecture", list(TARGETS))
@pytest.mark.parametrize(
    "settings", [{}, {"use_rslora": True}, {"modules_to_save": ["lm_head"]}, {"target_modules": "all-linear"}]
)
def test_an_adapter_of_peft_gives_what_peft_computes(tmp_path: Path, architecture: str, settings: dict[str, Any]):
    peft = pytest.importorskip("peft", reason="peft is not installed, and not needed")
    if architecture == "gpt2" and "modules_to_save" in settings:
        pytest.skip("its lm_head is tied")
    torch.manual_seed(0)
    plain = {"r": R, "lora_alpha": ALPHA, "target_modules": TARGETS[architecture], "init_lora_weights": False}
    wrapped = peft.get_peft_model(tiny_hf(architecture, VOCAB), peft.LoraConfig(**(plain | settings))).eval()
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "modules_to_save" in name:
                parameter.add_(0.1)
        expected = wrapped(IDS).logits
    wrapped.save_pretrained(tmp_path / "a")
    hf = tiny_hf(architecture, VOCAB)
    with torch.no_grad():
        before = hf(IDS).logits
        assert float((before - expected).abs().max()) > 0.1, "negative control"
        after = load_adapter(hf, tmp_path / "a", "tiny")(IDS).logits
    assert float((after - expected).abs().max()) < 1e-3


def test_an_embeddings_adapter_and_whole_modules_are_merged(tmp_path: Path):
    hf = tiny_hf("llama", VOCAB)
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(R, VOCAB, generator=generator), torch.randn(32, R, generator=generator)
    prefix = "base_model.model."
    extra = {
        f"{prefix}model.embed_tokens.lora_embedding_A": a,
        f"{prefix}model.embed_tokens.lora_embedding_B": b,
        f"{prefix}lm_head.weight": torch.randn(VOCAB, 32, generator=generator),
        f"{prefix}model.norm.modules_to_save.weight": torch.randn(32, generator=generator),
    }
    expected = hf.state_dict()["model.embed_tokens.weight"] + (b @ a).T * ALPHA / R
    kept = ["lm_head", "norm"]
    load_adapter(hf, write(tmp_path / "a", hf, ["q_proj"], extra=extra, modules_to_save=kept), "tiny")
    state = hf.state_dict()
    torch.testing.assert_close(state["model.embed_tokens.weight"], expected)
    assert torch.equal(state["lm_head.weight"], extra[f"{prefix}lm_head.weight"])
    assert torch.equal(state["model.norm.weight"], extra[f"{prefix}model.norm.modules_to_save.weight"])


def test_a_small_adapter_is_not_lost_in_a_bf16_model(tmp_path: Path):
    """The sum is made in fp32 and rounded once."""
    hf = tiny_hf("llama", VOCAB)
    folder = write(tmp_path / "a", hf, ["q_proj"])
    small = copy.deepcopy(hf).to(torch.bfloat16)
    expected = by_hand(copy.deepcopy(small).float(), folder, ALPHA / R)
    load_adapter(small, folder, "tiny")
    for name, weight in small.state_dict().items():
        assert torch.equal(weight, expected[name].to(torch.bfloat16))


def test_an_adapter_is_identified_by_its_files(tmp_path: Path):
    hf = tiny_hf("llama", VOCAB)
    told = identify_adapter(write(tmp_path / "a", hf, ["q_proj"]))
    assert json.loads(json.dumps(told)) == told
    assert (told["base"], told["r"], told["lora_alpha"]) == ("someone/base", R, ALPHA)
    assert told["weights"] == identify_adapter(write(tmp_path / "b", hf, ["q_proj"]))["weights"]
    assert told["weights"] != identify_adapter(write(tmp_path / "c", hf, ["v_proj"]))["weights"]
    assert told["weights"] != identify_adapter(write(tmp_path / "d", hf, ["q_proj"], lora_alpha=12))["weights"]


# --- refusals ---


def _tensors(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / "adapter_model.safetensors")
        change(tensors)
        save_file({k: t.contiguous() for k, t in tensors.items()}, folder / "adapter_model.safetensors")

    return damage


def _config(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def _file(name: str, content: bytes | None) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).unlink() if content is None else (folder / name).write_bytes(content)

    return damage


def _as_bin(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


FIRST = "base_model.model.model.layers.0.self_attn.q_proj."


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (_file("adapter_config.json", None), "has no adapter_config.json (it holds adapter_model.safetensors)"),
        (_file("adapter_model.safetensors", None), "has no adapter_model.safetensors (it holds adapter_config.json)"),
        (_as_bin, "a .bin is a pickle, which can run code"),
        (_file("adapter_config.json", b"{"), "adapter_config.json is not JSON"),
        (_file("adapter_config.json", b"[]"), "is a JSON list"),
        (_file("adapter_model.safetensors", b""), "is no safetensors file"),
        (_file("adapter_model.safetensors", b"\x10\0\0\0\0\0\0\0{}"), "cannot be read"),
        (_config(peft_type="IA3"), "is an adapter of peft_type 'IA3'; expected LORA; merge it with peft"),
        (_config(peft_type=None), "peft_type None"),
        (_config(use_dora=True), "has use_dora=True, which is not merged here; merge it with peft"),
        (_config(bias="all"), "has bias='all'"),
        (_config(bias="lora_only"), "has bias='lora_only'"),
        (_config(rank_pattern={"q_proj": 8}), "has rank_pattern={'q_proj': 8}"),
        (_config(alpha_pattern={"q_proj": 8}), "has alpha_pattern={'q_proj': 8}"),
        (_config(init_lora_weights="pissa"), "has init_lora_weights='pissa'"),
        (_config(layer_replication=[[0, 2]]), "has layer_replication="),
        (_config(target_parameters=["mlp.experts"]), "has target_parameters="),
        (_config(trainable_token_indices=[1]), "has trainable_token_indices=[1]"),
        (_config(something_new=True), "has something_new=True"),
        (_config(r="3"), "says r='3'; expected a whole number"),
        (_config(r=0), "says r=0; expected a whole number"),
        (_config(r=4), "A [3, 32] and B [32, 3] for model.layers.0.self_attn.q_proj; expected [4, 32] and [32, 4]"),
        (_config(lora_alpha="6"), "says lora_alpha='6'; expected a number"),
        (_config(lora_alpha=None), "says lora_alpha=None; expected a number"),
        (_config(use_rslora="true"), "says use_rslora='true'; expected true or false"),
        (_config(target_modules=5), "says target_modules=5"),
        (_config(target_modules="(q_proj"), "says target_modules='(q_proj'"),
        (_config(target_modules=["q_proj", "k_proj"]), "holds nothing for 2 modules that its settings adapt (model"),
        (_config(target_modules=r".*\.(q_proj|o_proj)"), "holds nothing for 2 modules that its settings adapt (model"),
        (_config(modules_to_save=["lm_head"]), "says modules_to_save 'lm_head' and holds no such weights"),
        (_tensors(lambda t: t.pop(FIRST + "lora_B.weight")), "holds A alone of model.layers.0.self_attn.q_proj"),
        (_tensors(lambda t: t.clear()), "holds no tensors"),
        (_tensors(lambda t: t[FIRST + "lora_A.weight"].view(-1)[2].fill_(float("nan"))), "NaN, infinite"),
        (_tensors(lambda t: t.update({FIRST + "lora_magnitude_vector": torch.ones(32)})), "lora_magnitude_vector"),
        (_tensors(lambda t: t.update({FIRST + "lora_B.bias": torch.ones(32)})), "lora_B.bias, which is not merged"),
        (_tensors(lambda t: t.update({FIRST + "bias": torch.ones(32)})), "self_attn.q_proj.bias, which tiny"),
        (_tensors(lambda t: t.update({"base_model.model.lm_head.weight": torch.ones(70, 32)})), "was resized"),
    ],
)
def test_what_is_no_plain_lora_of_this_model_is_refused_and_changes_nothing(
    tmp_path: Path, damage: Callable[[Path], None], line: str
):
    hf = tiny_hf("llama", VOCAB)
    folder = write(tmp_path / "a", hf, ["q_proj"])
    load_adapter(copy.deepcopy(hf), folder, "tiny")
    damage(folder)
    before = copy.deepcopy(hf.state_dict())
    with pytest.raises(UserError) as raised:
        load_adapter(hf, folder, "tiny")
    assert line in the_line(raised)
    assert len(str(raised.value)) < 450
    assert far(hf.state_dict(), before) == 0


@pytest.mark.parametrize(
    ("of", "onto", "line"),
    [
        ("gpt2", "llama", "adapts transformer.h.0.attn.c_attn, which tiny (LlamaForCausalLM) does not have"),
        ("llama", "gpt2", "adapts model.layers.0.mlp.down_proj, which tiny (GPT2LMHeadModel) does not have"),
        ("phi3", "llama", "gate_up_proj, which tiny (LlamaForCausalLM) does not have"),
    ],
)
def test_an_adapter_of_another_architecture_is_refused(tmp_path: Path, of: str, onto: str, line: str):
    folder = write(tmp_path / "a", tiny_hf(of, VOCAB), [*TARGETS[of][-1:], "c_attn"])
    with pytest.raises(UserError) as raised:
        load_adapter(tiny_hf(onto, VOCAB), folder, "tiny")
    assert line in the_line(raised)


def test_a_matrix_that_two_modules_share_is_refused(tmp_path: Path):
    """GPT-2's unembedding is its embedding: peft trains one of the two, a merge would change both."""
    hf = tiny_hf("gpt2", VOCAB)
    head = {"base_model.model.lm_head.weight": torch.ones(VOCAB, 32)}
    with pytest.raises(UserError, match=r"lm_head\.weight, which is one matrix with transformer\.wte\.weight"):
        load_adapter(hf, write(tmp_path / "a", hf, ["c_attn"], extra=head, modules_to_save=["lm_head"]), "tiny")
    same = {"base_model.model.lm_head.weight": hf.lm_head.weight.detach().clone()}
    load_adapter(hf, write(tmp_path / "b", hf, ["c_attn"], extra=same, modules_to_save=["lm_head"]), "tiny")


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"no folder .*absent; expected an adapter's"):
        load_adapter(tiny_hf("llama", VOCAB), tmp_path / "absent", "tiny")

"""`cfg.json` of SAELens in both generations: what sae_lens would misread or fill in is refused, by its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sae_lens
import torch
from refusals import the_line
from release_hub import WEIGHTS, D, F, X, far, write_sae
from sae_lens.registry import SAE_CLASS_REGISTRY
from sae_lens.saes.sae import SAEMetadata
from torch import Tensor
from word_sae import change_cfg

from interp.errors import UserError
from interp.saes.loading.sae import load_sae, load_transcoder

SITE = "blocks.0.hook_resid_pre"
# Each generation as its SAELens wrote it, for a ReLU SAE.
V3 = {
    "architecture": "standard",
    "hook_point": None,
    "hook_name": SITE,
    "hook_layer": 0,
    "hook_head_index": None,
    "activation_fn_str": "relu",
    "activation_fn_kwargs": {},
    "apply_b_dec_to_input": True,
    "finetuning_scaling_factor": False,
    "prepend_bos": True,
    "normalize_activations": "none",
    "sae_lens_training_version": "3.23.0",
}
V5 = V3 | {"sae_lens_training_version": "5.11.0", "model_from_pretrained_kwargs": {}, "seqpos_slice": [None]}
TOPK = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}}
K_OF_V5 = V5 | TOPK | {"architecture": "topk"}


def nested(folder: Path, architecture: str = "standard", **changes: Any) -> Path:
    """A folder as this sae_lens saves one, with `changes` at the top of its settings."""
    cls, config = SAE_CLASS_REGISTRY[architecture]
    sae: Any = cls(config(d_in=D, d_sae=F, metadata=SAEMetadata(hook_name=SITE)))
    with torch.no_grad():
        for name, weight in sae.named_parameters():
            weight.copy_(WEIGHTS[name] if name in WEIGHTS else torch.full_like(weight, 0.5))
    sae.save_model(folder)
    change_cfg(lambda cfg: cfg.update(changes))(folder)
    return folder


def written_out(k: int = F, threshold: float = 0.0, subtract: float = 1.0) -> Tensor:
    """What the k largest features of an SAE make of X."""
    pre = (X - subtract * WEIGHTS["b_dec"]) @ WEIGHTS["W_enc"] + WEIGHTS["b_enc"]
    features = pre.relu() * (pre > threshold)
    features = features * (features >= features.sort(dim=1, descending=True).values[:, k - 1 : k])
    return features @ WEIGHTS["W_dec"] + WEIGHTS["b_dec"]


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as raised:
        load_sae(folder)
    assert len(str(raised.value)) < 450, "one line that a person reads"
    return the_line(raised)


# --- what each generation means ---


@pytest.mark.parametrize(
    ("changes", "meant"),
    [
        ({}, {}),  # version 2: no architecture, no activation
        (V3, {}),
        (V5, {}),
        (V3 | {"apply_b_dec_to_input": False}, {"subtract": 0.0}),
        (V3 | TOPK, {"k": 4}),
        (K_OF_V5, {"k": 4}),
        ({"activation_fn": "topk", "activation_fn_kwargs": {"k": 4}, "architecture": "topk"}, {"k": 4}),
        ({"architecture": "topk", "k": 4}, {"k": 4}),
        ({"activation_fn": "relu"}, {}),
        ({"activation_fn": "relu", "activation_fn_str": "relu"}, {}),
        ({"normalize_activations": False}, {}),
        ({"normalize_activations": None}, {}),
        ({"activation_fn_kwargs": None, "rescale_acts_by_decoder_norm": False}, {}),
    ],
)
def test_a_flat_file_computes_what_it_says(tmp_path: Path, changes: dict[str, Any], meant: dict[str, Any]):
    folder = write_sae(tmp_path / "sae", WEIGHTS, **changes)
    assert far(folder, written_out(**meant)) < 1e-3
    wrong = {"k": 5} if meant.get("k") else {"subtract": 0.5}
    assert far(folder, written_out(**{**meant, **wrong})) > 0.1, "negative control"


@pytest.mark.parametrize("name", ["relu", "jumprelu"])
def test_a_flat_jumprelu_sae_may_name_either_function(tmp_path: Path, name: str):
    weights = WEIGHTS | {"threshold": torch.full((F,), 2.0)}
    folder = write_sae(tmp_path / "sae", weights, architecture="jumprelu", activation_fn_str=name)
    assert far(folder, written_out(threshold=2.0)) < 1e-3
    assert far(folder, written_out()) > 0.1, "negative control"


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("standard", {}),
        ("standard", {"activation_fn": "relu", "l1_coefficient": 5.0, "model_name": "gpt2"}),
        ("topk", {"k": 4}),
        ("topk", {"k": 4, "activation_fn": "topk", "activation_fn_kwargs": {"k": 4}}),
        ("jumprelu", {"activation_fn": "jumprelu"}),
        ("gated", {}),
        ("abstopk", {"k": 4}),
        ("matching_pursuit", {"max_iterations": 3}),
    ],
)
def test_a_nested_file_loads_and_plain_sae_lens_computes_the_same(
    tmp_path: Path, architecture: str, changes: dict[str, Any]
):
    folder = nested(tmp_path / "sae", architecture, **changes)
    plain = sae_lens.SAE.load_from_disk(folder)
    with torch.no_grad():
        torch.testing.assert_close(load_sae(folder).encode(X), plain.encode(X))


def test_a_topk_file_from_before_decoder_norms_counted_is_read_without_them(tmp_path: Path):
    folder = nested(tmp_path / "sae", "topk", k=4)
    change_cfg(lambda cfg: cfg.pop("rescale_acts_by_decoder_norm"))(folder)
    assert far(folder, written_out(k=4)) < 1e-3


# --- activation functions that would silently be a ReLU ---


@pytest.mark.parametrize("key", ["activation_fn", "activation_fn_str"])
@pytest.mark.parametrize("value", ["tanh-relu", "TopK", "batchtopk", "ReLU", "", None, 3, ["relu"]])
@pytest.mark.parametrize("generation", ["v2", "v3", "v5", "nested", "metadata"])
def test_an_activation_function_that_sae_lens_would_take_for_relu_is_refused(
    tmp_path: Path, key: str, value: Any, generation: str
):
    folder = tmp_path / "sae"
    if generation in ("nested", "metadata"):
        nested(folder)
        change_cfg(lambda cfg: (cfg if generation == "nested" else cfg["metadata"]).update({key: value}))(folder)
    else:
        base = {"v2": {}, "v3": V3, "v5": V5}[generation]
        write_sae(folder, WEIGHTS, **({k: v for k, v in base.items() if "activation_fn" not in k} | {key: value}))
    assert f"says {key}={value!r}, which sae_lens does not compute for a standard SAE" in refusal(folder)
    control = sae_lens.SAE.load_from_disk(folder)  # what sae_lens makes of it: the ReLU that was not asked for
    with torch.no_grad():
        features = control.encode(X)
    assert float(features.max()) > 1
    assert float((features > 0).sum(1).float().mean()) > 8


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"activation_fn": "topk"}, "activation_fn='topk' and k=None; expected k, a whole number"),
        ({"activation_fn": "topk", "activation_fn_kwargs": {}}, "k=None; expected k"),
        ({"activation_fn": "topk", "activation_fn_kwargs": None}, "k=None; expected k"),
        ({"activation_fn": "topk", "activation_fn_kwargs": {"k": "4"}}, "k='4'; expected k"),
        ({"activation_fn": "topk", "activation_fn_kwargs": {"k": 4.0}}, "k=4.0; expected k"),
        ({"activation_fn": "topk", "activation_fn_kwargs": {"k": True}}, "k=True; expected k"),
        ({"activation_fn": "topk", "activation_fn_kwargs": {"k": 0}}, "k=0; expected k"),
        ({"activation_fn": "topk", "activation_fn_kwargs": {"k": 65}}, "k=65 of d_sae=64"),
        (
            {"activation_fn": "topk", "activation_fn_kwargs": {"K": 4}},
            "activation_fn_kwargs K, which sae_lens",
        ),
        ({"activation_fn": "topk", "activation_fn_kwargs": [4]}, "activation_fn_kwargs=[4]; expected an object"),
        ({"activation_fn": "topk", "activation_fn_kwargs": {"k": 4}, "k": 8}, "k=8, and k=4 in activation_fn_kwargs"),
        ({"architecture": "topk", "k": "5"}, "k='5'; expected k, a whole number"),
        ({"architecture": "topk"}, "k=None; expected k, a whole number"),
        ({"architecture": "topk", "k": 4, "activation_fn": "relu"}, "does not compute for a topk SAE"),
        ({"architecture": "gated", **TOPK}, "'topk', which sae_lens does not compute for a gated SAE"),
        ({"architecture": "jumprelu", **TOPK}, "expected 'relu' or 'jumprelu'"),
        ({"activation_fn": "jumprelu"}, "activation_fn='jumprelu', which sae_lens does not compute for a standard"),
        (
            {"activation_fn": "relu", "activation_fn_kwargs": {"k": 4}},
            "activation_fn_kwargs k, which sae_lens",
        ),
        ({"activation_fn_kwargs": {"tanh_scale": 2}}, "activation_fn_kwargs tanh_scale"),
        ({"activation_fn": "relu", **TOPK}, "two activation functions, relu and topk"),
        ({"activation_fn_st": "tanh-relu"}, "unknown key 'activation_fn_st'; expected 'activation_fn_str'"),
        ({"activation_Fn": "tanh-relu"}, "unknown key 'activation_Fn'; expected 'activation_fn'"),
        ({"activation_function": "tanh-relu"}, "unknown setting 'activation_function'"),
    ],
)
def test_a_flat_files_activation_is_whole_or_refused(tmp_path: Path, changes: dict[str, Any], line: str):
    assert line in refusal(write_sae(tmp_path / "sae", WEIGHTS, **changes))


# --- every other setting that is read ---


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"apply_b_dec_to_input": "false"}, "apply_b_dec_to_input='false'; expected true or false"),
        ({"apply_b_dec_to_input": 0}, "apply_b_dec_to_input=0; expected true or false"),
        ({"apply_b_dec_to_input": None}, "apply_b_dec_to_input=None; expected true or false"),
        ({"dtype": "flaot32"}, "dtype='flaot32'; expected one of float32"),
        ({"dtype": "int8"}, "dtype='int8'; expected one of float32"),
        ({"dtype": None}, "dtype=None; expected one of float32"),
        ({"d_in": 32.0}, "d_in=32.0; expected a whole number above 0"),
        ({"normalize_activations": "constant_scalar_rescale"}, "expected one of none, expected_average_only_in"),
        ({"normalize_activations": 1}, "normalize_activations=1; expected one of none"),
        ({"normalize_activations": True}, "wants activations scaled"),
        ({"finetuning_scaling_factor": True}, "finetuning_scaling_factor=True, which sae_lens 6 does not apply"),
        ({"finetuning_scaling_factor": "no"}, "finetuning_scaling_factor='no', which sae_lens 6 does not apply"),
        ({"reshape_activations": "hook_z"}, "reads heads (hook_z)"),
        ({"reshape_activations": False}, "reads heads (False)"),
        ({"hook_point_head_index": 3}, "reads heads (hook_point_head_index=3)"),
        ({"k": 4}, "unknown setting 'k'"),
        ({"rescale_acts_by_decoder_norm": True}, "unknown setting 'rescale_acts_by_decoder_norm'"),
        ({"sae_lens_version": "6.5.0"}, "says sae_lens_version='6.5.0' and has no metadata"),
        ({"sae_lens_version": "new"}, "sae_lens_version='new'; expected a version"),
        ({"prepend_bos": "false"}, "prepend_bos='false'; expected true or false, or null"),
        ({"model_name": ["gpt2"]}, "model_name=['gpt2']; expected a name"),
        ({"model_from_pretrained_kwargs": "none"}, "model_from_pretrained_kwargs='none'; expected an object"),
        ({"context_size": "128"}, "context_size='128'; expected a whole number"),
        ({"hook_name": "blocks.1.hook_resid_pre"}, "hook_point and hook_name, blocks.0.hook_resid_pre and blocks.1"),
        ({"hook_name": None}, "hook_name=None; expected a site's name"),
        ({"hook_point": 7}, "hook_name=7; expected a site's name"),
    ],
)
def test_a_flat_file_with_a_mistyped_setting_is_refused(tmp_path: Path, changes: dict[str, Any], line: str):
    assert line in refusal(write_sae(tmp_path / "sae", WEIGHTS, **changes))


@pytest.mark.parametrize(
    ("architecture", "changes", "line"),
    [
        ("topk", {"k": "5"}, "k='5'; expected k, a whole number"),
        ("topk", {"k": 4, "rescale_acts_by_decoder_norm": "false"}, "expected true or false"),
        ("topk", {"k": 4, "activation_fn": "relu"}, "does not compute for a topk SAE"),
        ("topk", {"k": 4, "activation_fn_kwargs": {"k": 8}}, "k=4, and k=8 in activation_fn_kwargs"),
        ("standard", {"activation_fn": "topk", "activation_fn_kwargs": {"k": 4}}, "expected 'relu'"),
        ("standard", {"apply_b_dec_to_input": "false"}, "apply_b_dec_to_input='false'; expected true or false"),
        ("standard", {"normalize_activations": None}, "normalize_activations=None; expected one of none"),
        ("standard", {"normalize_activations": False}, "normalize_activations=False; expected one of none"),
        ("standard", {"nonlinearity": "tanh"}, "unknown setting 'nonlinearity'"),
        ("standard", {"k": 4}, "unknown setting 'k'"),
        ("standard", {"finetuning_scaling_factor": True}, "unknown setting 'finetuning_scaling_factor'"),
        ("abstopk", {"k": 65}, "k=65 of d_sae=64"),
        ("abstopk", {"k": "4"}, "k='4'; expected a whole number"),
        ("abstopk", {"k": 4, "activation_fn": "topk"}, "expected no such key"),
        ("matching_pursuit", {"residual_threshold": "0.1"}, "residual_threshold='0.1'; expected a number"),
        ("matching_pursuit", {"max_iterations": 2.5}, "max_iterations=2.5; expected a whole number"),
        ("matching_pursuit", {"stop_on_duplicate_support": 1}, "stop_on_duplicate_support=1; expected true or false"),
    ],
)
def test_a_nested_file_with_a_mistyped_setting_is_refused(
    tmp_path: Path, architecture: str, changes: dict[str, Any], line: str
):
    assert line in refusal(
        nested(tmp_path / "sae", architecture, **({"k": 4} if "topk" in architecture else {}) | changes)
    )


@pytest.mark.parametrize(
    ("architecture", "key", "line"),
    [
        ("standard", "apply_b_dec_to_input", "apply_b_dec_to_input=None; expected true or false"),
        ("standard", "normalize_activations", "normalize_activations=None"),
        ("standard", "dtype", "dtype=None"),
        ("topk", "k", "k=None; expected k"),
        ("matching_pursuit", "residual_threshold", "residual_threshold=None"),
    ],
)
def test_what_sae_lens_would_fill_with_a_default_is_refused(tmp_path: Path, architecture: str, key: str, line: str):
    folder = nested(tmp_path / "sae", architecture)
    change_cfg(lambda cfg: cfg.update(k=4) if architecture == "topk" else None)(folder)
    load_sae(folder)
    change_cfg(lambda cfg: cfg.pop(key))(folder)
    assert line in refusal(folder)


@pytest.mark.parametrize(
    ("metadata", "line"),
    [
        ({"sae_lens_version": "5.9.0"}, "has metadata, which sae_lens drops in files from before 6"),
        ({"sae_lens_version": 6}, "sae_lens_version=6; expected a version"),
        ({"hook_name": None}, "hook_name=None"),
        ({"hook_head_index": 0}, "reads heads (hook_head_index=0)"),
        ({"prepend_bos": 1}, "prepend_bos=1; expected true or false, or null"),
        ({"model_from_pretrained_kwargs": ["fold_ln"]}, "expected an object, or null"),
    ],
)
def test_mistyped_metadata_is_refused(tmp_path: Path, metadata: dict[str, Any], line: str):
    folder = nested(tmp_path / "sae")
    load_sae(folder)
    change_cfg(lambda cfg: cfg["metadata"].update(metadata))(folder)
    assert line in refusal(folder)


def test_a_transcoders_activation_and_width_are_checked_as_well(tmp_path: Path):
    cls, config = SAE_CLASS_REGISTRY["transcoder"]
    metadata = SAEMetadata(hook_name=SITE, hook_name_out=SITE)
    make: Any = config
    sae: Any = cls(make(d_in=D, d_out=16, d_sae=F, apply_b_dec_to_input=False, metadata=metadata))
    sae.save_model(tmp_path)
    load_transcoder(tmp_path)
    saved = json.loads((tmp_path / "cfg.json").read_text())
    for changes, line in (
        ({"activation_fn": "tanh-relu"}, "does not compute for a transcoder SAE"),
        ({"d_out": "16"}, "d_out='16'; expected a whole number"),
    ):
        (tmp_path / "cfg.json").write_text(json.dumps(saved | changes))
        with pytest.raises(UserError) as raised:
            load_transcoder(tmp_path)
        assert line in the_line(raised)

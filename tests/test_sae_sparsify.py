"""SAEs of EleutherAI's sparsify against its formula written out here; their sites, on a model, and every refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_saes import (
    SPARSIFY,
    D,
    F,
    K,
    Tensors,
    X,
    agrees,
    change_tensors,
    cut_short,
    drawn,
    remove,
    spoil,
    top_k,
    write_sparsify,
)
from refusals import the_line
from torch import Tensor
from word_sae import SENTENCES, SITE, change_cfg

from interp.activations.rows import Rows
from interp.errors import UserError
from interp.model.model import Model
from interp.saes.evaluate import evaluate_sae
from interp.saes.loading.sae import encode_features, load_sae, site_of
from interp.saes.loading.sparsify import site_of_module
from interp.saes.training.save import save_sae


def _sparsify(w: Tensors) -> tuple[Tensor, Tensor]:
    features = top_k((X - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"], K)
    return features, features @ w["W_dec"] + w["b_dec"]


def test_a_sparsify_sae_computes_the_same(tmp_path: Path):
    tensors = drawn(SPARSIFY)
    assert agrees(write_sparsify(tmp_path / "layers.10", tensors), *_sparsify(tensors))


@pytest.mark.parametrize("name", SPARSIFY)
def test_a_wrong_weight_of_sparsify_is_seen(tmp_path: Path, name: str):
    """Negative control: the comparison fails for one number changed in any tensor."""
    expected = _sparsify(tensors := drawn(SPARSIFY))
    wrong = spoil(tensors, name, expected[0])
    assert not agrees(write_sparsify(tmp_path / "layers.10", wrong), *expected)


def test_without_num_latents_the_width_is_the_expansion_factor_times_d_in(tmp_path: Path):
    tensors = drawn(SPARSIFY | {"encoder.weight": (36, D), "encoder.bias": (36,), "W_dec": (36, D)})
    folder = write_sparsify(tmp_path / "layers.10", tensors, num_latents=0, expansion_factor=3)
    assert agrees(folder, *_sparsify(tensors))


def test_half_precision_weights_come_out_as_float32(tmp_path: Path):
    tensors = {name: tensor.bfloat16() for name, tensor in drawn(SPARSIFY).items()}
    folder = write_sparsify(tmp_path / "layers.10", tensors)
    assert agrees(folder, *_sparsify({name: tensor.float() for name, tensor in tensors.items()}))


@pytest.mark.parametrize(
    ("path", "site"),
    [
        ("layers.10", "blocks.10.hook_resid_post"),
        ("layers.3.mlp", "blocks.3.hook_mlp_out"),
        ("h.3.attn", "blocks.3.hook_attn_out"),
        ("layers.3.self_attn", "blocks.3.hook_attn_out"),
        ("gpt_neox.layers.7.attention", "blocks.7.hook_attn_out"),
        ("layers.10/seed1", "blocks.10.hook_resid_post"),
        ("layers.3.mlp.down_proj", None),
        ("embed_tokens", None),
        ("my_sae", None),
    ],
)
def test_the_site_of_a_sparsify_sae_is_its_folders_name(tmp_path: Path, path: str, site: str | None):
    folder = write_sparsify(tmp_path / path)
    if site is not None:
        assert site_of(load_sae(folder)) == site
        assert site_of(load_sae(folder, site=SITE)) == SITE, "what the user says goes before a folder's name"
        return
    with pytest.raises(UserError) as raised:
        load_sae(folder)
    assert f"does not say which site it reads (its folder is called {Path(path).name!r})" in the_line(raised)
    assert "site='blocks.8.hook_resid_post'" in str(raised.value)
    assert site_of(load_sae(folder, site=SITE)) == SITE


def test_the_run_above_a_sparsify_folder_says_the_model(tmp_path: Path):
    folder = write_sparsify(tmp_path / "run" / "layers.10")
    (tmp_path / "run" / "config.json").write_text(json.dumps({"sae": {}, "model": "a/b", "ctx_len": 64}))
    metadata = load_sae(folder).cfg.metadata.to_dict()
    assert (metadata["model_name"], metadata["context_size"], metadata["converted_from"]) == ("a/b", 64, "sparsify")


# --- refusals ---


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (change_cfg(lambda c: c.update(transcode=True)), "is a transcoder of sparsify"),
        (change_cfg(lambda c: c.update(skip_connection=True)), "has skip_connection=True"),
        (change_cfg(lambda c: c.update(signed=True)), "has signed=True"),
        (change_cfg(lambda c: c.update(activation="groupmax")), "has activation='groupmax'"),
        (change_cfg(lambda c: c.pop("k")), "says k=None"),
        (change_cfg(lambda c: c.update(k=F + 1)), f"says k={F + 1} of {F} features"),
        (change_cfg(lambda c: c.pop("d_in")), "says d_in=None"),
        (change_cfg(lambda c: c.update(num_latents="40")), "says num_latents='40'"),
        (change_cfg(lambda c: c.update(num_latents=32)), f"encoder.weight is [{F}, {D}] of torch.float32"),
        (lambda folder: (folder / "cfg.json").write_text("[1"), "cfg.json is no JSON object"),
        (remove("cfg.json"), "has no cfg.json (it holds sae.safetensors)"),
        (remove("sae.safetensors"), "has no sae.safetensors (it holds cfg.json)"),
        (cut_short("sae.safetensors"), "sae.safetensors is no safetensors file"),
        (lambda folder: torch.save({}, folder / "sae.safetensors"), "sae.safetensors is no safetensors file"),
        (change_tensors(lambda t: t.pop("b_dec")), "has no b_dec (it holds W_dec, encoder.bias, encoder.weight)"),
        (
            change_tensors(lambda t: t.update(W_skip=torch.zeros(D, D))),
            "holds W_skip, which no SAE of its settings",
        ),
        (change_tensors(lambda t: t.update(b_dec=torch.zeros(D).int())), "expected [12] of floating-point numbers"),
        (change_tensors(lambda t: t["W_dec"].view(-1)[:2].fill_(float("nan"))), "W_dec holds 2 numbers that are NaN"),
    ],
)
def test_a_damaged_sparsify_folder_is_refused_in_one_line(tmp_path: Path, damage: Callable[[Path], object], line: str):
    folder = write_sparsify(tmp_path / "layers.10")
    load_sae(folder)  # negative control
    damage(folder)
    with pytest.raises(UserError) as raised:
        load_sae(folder)
    assert line in the_line(raised)
    assert len(str(raised.value)) < 400


# --- on a model ---


def test_a_converted_sae_is_used_like_the_one_it_was(
    word_model: Model, word_rows: Rows, word_sae: Path, as_sparsify: Path, capsys: pytest.CaptureFixture[str]
):
    theirs, ours = load_sae(word_sae, word_model), load_sae(as_sparsify, word_model)
    assert "made elsewhere; site and width fit; not checked: model name" in capsys.readouterr().err
    assert (encode_features(ours, word_rows.clean) == encode_features(theirs, word_rows.clean)).all()
    reports = [evaluate_sae(sae, word_model, SENTENCES[1:20:2], n_boot=50) for sae in (ours, theirs)]
    assert reports[0].explained_variance == reports[1].explained_variance
    saved = load_sae(save_sae(ours, as_sparsify.parent / "saved"), word_model)
    assert (encode_features(saved, word_rows.clean) == encode_features(theirs, word_rows.clean)).all()


def test_a_converted_sae_of_another_site_or_width_is_refused(word_model: Model, as_sparsify: Path):
    for folder, site, line in (
        (as_sparsify, "blocks.7.hook_resid_post", "unknown site 'blocks.7.hook_resid_post'"),
        (as_sparsify, "blocks.0.mlp.hook_post", "d_in=32, but blocks.0.mlp.hook_post"),
    ):
        with pytest.raises(UserError) as raised:
            load_sae(folder, word_model, site=site)
        assert line in the_line(raised)


def test_where_a_norm_follows_the_module_its_output_is_not_taken_for_the_site(
    tmp_path: Path, tiny_of: Callable[[str], Model]
):
    tensors = drawn({"encoder.weight": (F, 32), "encoder.bias": (F,), "W_dec": (F, 32), "b_dec": (32,)})
    folder = write_sparsify(tmp_path / "layers.1.mlp", tensors, d_in=32)
    with pytest.raises(UserError) as raised:
        load_sae(folder, tiny_of("gemma2"))
    assert "blocks.1.hook_mlp_out comes after a norm" in the_line(raised)
    assert site_of(load_sae(folder, tiny_of("gemma2"), site="blocks.1.mlp.hook_out")) == "blocks.1.mlp.hook_out"
    assert site_of(load_sae(folder, tiny_of("llama"))) == "blocks.1.hook_mlp_out"


@pytest.mark.parametrize(
    ("module", "kind"), [("layers.1", "resid_post"), ("layers.1.mlp", "mlp"), ("h.1.attn", "attn")]
)
def test_the_site_is_where_the_module_puts_its_output(tiny_gpt2: Model, tiny_llama: Model, module: str, kind: str):
    """Against a plain forward hook on the module of the Hugging Face model, the first output of several."""
    model = tiny_gpt2 if module.startswith("h") else tiny_llama
    seen: list[Any] = []
    hook = model.hf.base_model.get_submodule(module).register_forward_hook(
        lambda _module, _inputs, output: seen.append(output[0] if isinstance(output, tuple) else output)
    )
    with torch.no_grad():
        model.hf(torch.tensor([[5, 6, 7, 8]]))
    hook.remove()
    site = site_of_module(module)
    assert site is not None
    assert kind in site
    torch.testing.assert_close(
        model.capture([[5, 6, 7, 8]], site)[site].reshape(seen[0].shape), seen[0], atol=1e-4, rtol=0
    )

"""SAEs of sparsify and dictionary_learning, and transcoders: against formulas written out here, and the libraries.

The fixtures are written by hand as those libraries write them; the slow test has the libraries themselves write.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from refusals import the_line
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.transcoder import SkipTranscoder, SkipTranscoderConfig
from safetensors.torch import load_file, save_file
from torch import Tensor
from word_sae import SENTENCES, SITE, change_cfg

from interp.activations.rows import Rows
from interp.errors import UserError
from interp.model.model import Model
from interp.saes.evaluate import evaluate_sae
from interp.saes.foreign import site_of_module
from interp.saes.load import encode_features, load_sae, load_transcoder, site_of
from interp.saes.trainer import save_sae

D, F, K = 12, 40, 4
Tensors = dict[str, Tensor]


def _drawn(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


X = _drawn({"x": (50, D)}, seed=9)["x"]


def _top(pre: Tensor, k: int) -> Tensor:
    """ReLU, then the k largest of each row."""
    out = torch.zeros_like(pre)
    for row, values in enumerate(pre.tolist()):
        for i in sorted(range(len(values)), key=lambda i: -values[i])[:k]:
            out[row, i] = max(values[i], 0.0)
    return out


def _agrees(folder: Path, features: Tensor, output: Tensor) -> bool:
    """Does the SAE in `folder` give these for X? They must be sparse, and not all zero, to say anything."""
    assert 0.05 < float((features > 0).double().mean()) < 0.9
    sae = load_sae(folder, site=SITE)
    with torch.no_grad():
        ours = sae.encode(X)
        far = max(float((ours - features).abs().max()), float((sae.decode(ours) - output).abs().max()))
    return far < 1e-4


def _spoil(tensors: Tensors, name: str, features: Tensor) -> Tensors:
    """A copy with one number of one tensor wrong: a number of the feature that fires most, where it has features."""
    wrong = {key: tensor.clone() for key, tensor in tensors.items()}
    busiest = int((features > 0).sum(0).argmax())
    place = tuple(busiest if size == F else 3 for size in wrong[name].shape)
    wrong[name][place] += 50 if name == "threshold" else -50  # which switches the feature off, or its gate
    return wrong


# --- sparsify ---

SPARSIFY = {"encoder.weight": (F, D), "encoder.bias": (F,), "W_dec": (F, D), "b_dec": (D,)}
SPARSIFY_CFG = {  # what SparseCoder.save_to_disk writes
    "activation": "topk",
    "expansion_factor": 32,
    "normalize_decoder": True,
    "num_latents": F,
    "k": K,
    "multi_topk": False,
    "skip_connection": False,
    "transcode": False,
    "d_in": D,
}


def _write_sparsify(folder: Path, tensors: Tensors | None = None, **cfg: Any) -> Path:
    folder.mkdir(parents=True)
    save_file(tensors or _drawn(SPARSIFY), folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps(SPARSIFY_CFG | cfg))
    return folder


def _sparsify(w: Tensors) -> tuple[Tensor, Tensor]:
    features = _top((X - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"], K)
    return features, features @ w["W_dec"] + w["b_dec"]


def test_a_sparsify_sae_computes_the_same(tmp_path: Path):
    tensors = _drawn(SPARSIFY)
    assert _agrees(_write_sparsify(tmp_path / "layers.10", tensors), *_sparsify(tensors))


@pytest.mark.parametrize("name", SPARSIFY)
def test_a_wrong_weight_of_sparsify_is_seen(tmp_path: Path, name: str):
    """Negative control: the comparison fails for one number changed in any tensor."""
    expected = _sparsify(tensors := _drawn(SPARSIFY))
    wrong = _spoil(tensors, name, expected[0])
    assert not _agrees(_write_sparsify(tmp_path / "layers.10", wrong), *expected)


def test_without_num_latents_the_width_is_the_expansion_factor_times_d_in(tmp_path: Path):
    tensors = _drawn(SPARSIFY | {"encoder.weight": (36, D), "encoder.bias": (36,), "W_dec": (36, D)})
    folder = _write_sparsify(tmp_path / "layers.10", tensors, num_latents=0, expansion_factor=3)
    assert _agrees(folder, *_sparsify(tensors))


def test_half_precision_weights_come_out_as_float32(tmp_path: Path):
    tensors = {name: tensor.bfloat16() for name, tensor in _drawn(SPARSIFY).items()}
    folder = _write_sparsify(tmp_path / "layers.10", tensors)
    assert _agrees(folder, *_sparsify({name: tensor.float() for name, tensor in tensors.items()}))


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
    folder = _write_sparsify(tmp_path / path)
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
    folder = _write_sparsify(tmp_path / "run" / "layers.10")
    (tmp_path / "run" / "config.json").write_text(json.dumps({"sae": {}, "model": "a/b", "ctx_len": 64}))
    metadata = load_sae(folder).cfg.metadata.to_dict()
    assert (metadata["model_name"], metadata["context_size"], metadata["converted_from"]) == ("a/b", 64, "sparsify")


# --- dictionary_learning ---

_LINEAR = {"encoder.weight": (F, D), "encoder.bias": (F,), "decoder.weight": (D, F)}
_OURS = {"W_enc": (D, F), "b_enc": (F,), "W_dec": (F, D), "b_dec": (D,)}
_NUMBERS = {"k": torch.tensor(K, dtype=torch.int), "threshold": torch.tensor(3.0)}
DICTIONARIES: dict[str, Tensors] = {
    "AutoEncoder": _drawn({**_LINEAR, "bias": (D,)}),
    "AutoEncoderNew": _drawn({**_LINEAR, "decoder.bias": (D,)}),
    "GatedAutoEncoder": _drawn(
        {"decoder_bias": (D,), "r_mag": (F,), "gate_bias": (F,), "mag_bias": (F,)}
        | {"encoder.weight": (F, D), "decoder.weight": (D, F)}
    ),
    "JumpReluAutoEncoder": _drawn({**_OURS, "threshold": (F,)}),
    "AutoEncoderTopK": _drawn({**_LINEAR, "b_dec": (D,)}) | _NUMBERS,
    "BatchTopKSAE": _drawn({**_LINEAR, "b_dec": (D,)}) | _NUMBERS,
    "MatryoshkaBatchTopKSAE": _drawn(_OURS) | _NUMBERS | {"group_sizes": torch.tensor([10, F - 10])},
}
TRAINER = {"activation_dim": D, "dict_size": F, "layer": 8, "lm_name": "openai-community/gpt2"}


def _dictionary(name: str, w: Tensors) -> tuple[Tensor, Tensor]:
    """Features and output for X, as the class of that name in dictionary.py and trainers/ computes them."""
    if name == "AutoEncoder":  # its decoder is normalised when it is loaded
        norm = w["decoder.weight"].norm(dim=0)
        f = ((X - w["bias"]) @ w["encoder.weight"].T + w["encoder.bias"]).relu() * norm
        return f, f @ (w["decoder.weight"] / norm).T + w["bias"]
    if name == "AutoEncoderNew":
        f = (X @ w["encoder.weight"].T + w["encoder.bias"]).relu()
        return f, f @ w["decoder.weight"].T + w["decoder.bias"]
    if name == "GatedAutoEncoder":
        pre = (X - w["decoder_bias"]) @ w["encoder.weight"].T
        f = (pre + w["gate_bias"] > 0) * (w["r_mag"].exp() * pre + w["mag_bias"]).relu()
        return f, f @ w["decoder.weight"].T + w["decoder_bias"]
    if name == "JumpReluAutoEncoder":
        pre = X @ w["W_enc"] + w["b_enc"]
        f = (pre * (pre > w["threshold"])).relu()
        return f, f @ w["W_dec"] + w["b_dec"]
    encoder = w["W_enc"] if "W_enc" in w else w["encoder.weight"].T
    decoder = w["W_dec"] if "W_dec" in w else w["decoder.weight"].T
    pre = ((X - w["b_dec"]) @ encoder + w["b_enc" if "b_enc" in w else "encoder.bias"]).relu()
    f = _top(pre, K) if name == "AutoEncoderTopK" else pre * (pre > w["threshold"])
    return f, f @ decoder + w["b_dec"]


def _write_dictionary(folder: Path, name: str, tensors: Any = None, **trainer: Any) -> Path:
    folder.mkdir(parents=True)
    torch.save(DICTIONARIES[name] if tensors is None else tensors, folder / "ae.pt")
    settings = {"trainer": TRAINER | {"dict_class": name, "k": K} | trainer, "buffer": {"io": "out", "ctx_len": 128}}
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("name", DICTIONARIES)
def test_a_dictionary_computes_the_same(tmp_path: Path, name: str):
    assert _agrees(_write_dictionary(tmp_path / "trainer_0", name), *_dictionary(name, DICTIONARIES[name]))


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        (name, tensor)
        for name, tensors in DICTIONARIES.items()
        for tensor in tensors
        if tensor not in {"k", "group_sizes"} and (name, tensor) != ("AutoEncoderTopK", "threshold")
    ],
)
def test_a_wrong_weight_of_a_dictionary_is_seen(tmp_path: Path, name: str, tensor: str):
    expected = _dictionary(name, DICTIONARIES[name])
    wrong = _spoil(DICTIONARIES[name], tensor, expected[0])
    assert not _agrees(_write_dictionary(tmp_path / "trainer_0", name, wrong), *expected)


def test_a_decoder_of_unit_norm_is_left_as_it_is(tmp_path: Path):
    tensors = {key: value.clone() for key, value in DICTIONARIES["AutoEncoder"].items()}
    tensors["decoder.weight"] /= tensors["decoder.weight"].norm(dim=0)
    sae = load_sae(_write_dictionary(tmp_path / "trainer_0", "AutoEncoder", tensors))
    assert torch.equal(sae.W_dec, tensors["decoder.weight"].T)
    tensors["decoder.weight"][:, 0] = 0  # a feature that writes nothing has no norm to divide by
    features = ((X - tensors["bias"]) @ tensors["encoder.weight"].T + tensors["encoder.bias"]).relu()
    output = features @ tensors["decoder.weight"].T + tensors["bias"]
    assert _agrees(_write_dictionary(tmp_path / "trainer_1", "AutoEncoder", tensors), features, output)


def test_a_batchtopk_without_a_threshold_is_said_to_have_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    tensors = DICTIONARIES["BatchTopKSAE"] | {"threshold": torch.tensor(-1.0)}
    folder = _write_dictionary(tmp_path / "trainer_0", "BatchTopKSAE", tensors)
    assert _agrees(folder, *_dictionary("BatchTopKSAE", tensors))
    assert "saved before it had a threshold" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "trainer", "io", "site"),
    [
        ("trainer_0", {"submodule_name": "resid_post_layer_8"}, "out", "blocks.8.hook_resid_post"),
        ("trainer_0", {"submodule_name": "mlp_out_layer_8"}, "out", "blocks.8.hook_mlp_out"),
        ("attn_out_layer_8/trainer_0", {"submodule_name": None}, "out", "blocks.8.hook_attn_out"),
        ("trainer_0", {}, "out", "blocks.8.hook_resid_post"),
        ("trainer_0", {"submodule_name": "resid_post_layer_7"}, "out", None),
        ("trainer_0", {"submodule_name": "the_mlp"}, "out", None),
        ("trainer_0", {"layer": None}, "out", None),
        ("trainer_0", {}, "in", None),
    ],
)
def test_the_site_of_a_dictionary(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    path: str,
    trainer: dict[str, Any],
    io: str,
    site: str | None,
):
    folder = _write_dictionary(tmp_path / path, "AutoEncoder", **trainer)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"buffer": {"io": io}}))
    if site is None:
        with pytest.raises(UserError) as raised:
            load_sae(folder)
        assert "does not say which site it reads (submodule_name=" in the_line(raised)
    else:
        assert site_of(load_sae(folder)) == site
        assumed = "name a layer and no submodule; taken as blocks.8.hook_resid_post" in capsys.readouterr().err
        assert assumed == (not trainer)
    assert site_of(load_sae(folder, site=SITE)) == SITE


class Bomb:
    """A pickle that makes a folder where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("save", [torch.save, lambda bomb, path: path.write_bytes(pickle.dumps(bomb))])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path, save: Callable[[Any, Path], None]):
    marker = tmp_path / "ran"
    folder = _write_dictionary(tmp_path / "trainer_0", "AutoEncoder")
    save(DICTIONARIES["AutoEncoder"] | {"bias": Bomb(marker)}, folder / "ae.pt")
    with pytest.raises(UserError) as raised:
        load_sae(folder)
    assert "ae.pt cannot be read as tensors (it" in the_line(raised)
    assert "none of it ran" in str(raised.value)
    assert "weights_only" not in str(raised.value), "torch's own text says how to let the code run"
    assert not marker.exists()
    if save is torch.save:
        torch.load(folder / "ae.pt", weights_only=False)
        assert marker.exists(), "negative control: the bomb is live"


# --- refusals ---


def _tensors(change: Callable[[Tensors], object]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        if (folder / "ae.pt").exists():
            tensors = torch.load(folder / "ae.pt", weights_only=True)
            change(tensors)
            torch.save(tensors, folder / "ae.pt")
        else:
            tensors = load_file(folder / "sae.safetensors")
            change(tensors)
            save_file(tensors, folder / "sae.safetensors")

    return damage


def _cut(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-100])


def _gone(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def _trainer(**changes: Any) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        cfg = json.loads((folder / "config.json").read_text())
        cfg["trainer"] |= changes
        (folder / "config.json").write_text(json.dumps(cfg))

    return damage


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
        (_gone("cfg.json"), "has no cfg.json (it holds sae.safetensors)"),
        (_gone("sae.safetensors"), "has no sae.safetensors (it holds cfg.json)"),
        (_cut("sae.safetensors"), "sae.safetensors is no safetensors file"),
        (lambda folder: torch.save({}, folder / "sae.safetensors"), "sae.safetensors is no safetensors file"),
        (_tensors(lambda t: t.pop("b_dec")), "has no b_dec (it holds W_dec, encoder.bias, encoder.weight)"),
        (_tensors(lambda t: t.update(W_skip=torch.zeros(D, D))), "holds W_skip, which no SAE of its settings has"),
        (_tensors(lambda t: t.update(b_dec=torch.zeros(D).int())), "expected [12] of floating-point numbers"),
        (_tensors(lambda t: t["W_dec"].view(-1)[:2].fill_(float("nan"))), "W_dec holds 2 numbers that are NaN"),
    ],
)
def test_a_damaged_sparsify_folder_is_refused_in_one_line(tmp_path: Path, damage: Callable[[Path], object], line: str):
    folder = _write_sparsify(tmp_path / "layers.10")
    load_sae(folder)  # negative control
    damage(folder)
    with pytest.raises(UserError) as raised:
        load_sae(folder)
    assert line in the_line(raised)
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (_trainer(dict_class="IdentityDict"), "unknown dict_class 'IdentityDict'"),
        (_trainer(dict_class=None), "unknown dict_class 'None'"),
        (_trainer(k=F + 1), f"says k={F + 1} of {F} features"),
        (_trainer(k=True), "says k=True"),
        (_trainer(k=5), "config.json says k=5, but ae.pt k=4"),
        (_trainer(dict_size=F + 1), f"expected [{F + 1}, {D}]"),
        (_trainer(activation_dim=None), "says activation_dim=None"),
        (_trainer(dict_class="JumpReluAutoEncoder"), "has no W_dec, W_enc, b_enc"),
        (lambda folder: (folder / "config.json").write_text('{"trainer": 3}'), "config.json has no trainer"),
        (_gone("config.json"), "has no config.json (it holds ae.pt)"),
        (_gone("ae.pt"), "has no ae.pt (it holds config.json)"),
        (_cut("ae.pt"), "ae.pt cannot be read as tensors"),
        (lambda folder: (folder / "ae.pt").write_bytes(b""), "ae.pt cannot be read as tensors"),
        (lambda folder: torch.save([1, 2], folder / "ae.pt"), "ae.pt holds a list"),
        (lambda folder: torch.save({"bias": "text"}, folder / "ae.pt"), "ae.pt holds a dict"),
        (_tensors(lambda t: t.pop("threshold")), "has no threshold"),
        (_tensors(lambda t: t.update(W_skip=torch.zeros(2))), "holds W_skip, which no SAE of its settings has"),
        (_tensors(lambda t: t.update(threshold=torch.zeros(2))), "threshold is [2] of torch.float32"),
        (_tensors(lambda t: t.update(b_dec=torch.zeros(D).to_sparse())), "torch.sparse_coo; expected [12]"),
        (_tensors(lambda t: t["encoder.bias"][:1].fill_(float("inf"))), "b_enc holds 1 numbers that are NaN or inf"),
    ],
)
def test_a_damaged_dictionary_is_refused_in_one_line(tmp_path: Path, damage: Callable[[Path], object], line: str):
    folder = _write_dictionary(tmp_path / "resid_post_layer_8" / "trainer_0", "BatchTopKSAE")
    load_sae(folder)  # negative control
    damage(folder)
    with pytest.raises(UserError) as raised:
        load_sae(folder)
    assert line in the_line(raised)
    assert len(str(raised.value)) < 400


# --- on a model ---


@pytest.fixture
def as_sparsify(word_sae: Path, tmp_path: Path) -> Path:
    """The trained SAE of the words as sparsify would have written it."""
    w = load_file(word_sae / "sae_weights.safetensors")
    tensors = {
        "encoder.weight": w["W_enc"].T.contiguous(),
        "encoder.bias": w["b_enc"],
        "W_dec": w["W_dec"],
        "b_dec": w["b_dec"],
    }
    return _write_sparsify(tmp_path / "run" / "h.0", tensors, d_in=32, num_latents=64, k=4)


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
    tensors = _drawn({"encoder.weight": (F, 32), "encoder.bias": (F,), "W_dec": (F, 32), "b_dec": (32,)})
    folder = _write_sparsify(tmp_path / "layers.1.mlp", tensors, d_in=32)
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


def test_a_folder_of_saelens_that_says_its_site_is_not_told_another(word_sae: Path):
    assert site_of(load_sae(word_sae, site=SITE)) == SITE
    with pytest.raises(UserError) as raised:
        load_sae(word_sae, site="blocks.1.hook_resid_post")
    assert f"reads {SITE}, as it says itself, not site='blocks.1.hook_resid_post'" in the_line(raised)


# --- transcoders ---

IN, OUT = "blocks.0.hook_resid_mid", "blocks.0.mlp.hook_post"


@pytest.fixture
def transcoder(tmp_path: Path) -> Path:
    """A transcoder of the word model, from 32 wide to the 128 of the MLP, with a skip connection."""
    metadata = SAEMetadata(hook_name=IN, hook_name_out=OUT)
    made = SkipTranscoder(
        SkipTranscoderConfig(d_in=32, d_out=128, d_sae=F, apply_b_dec_to_input=False, metadata=metadata)
    )
    shapes = {name: tuple(tensor.shape) for name, tensor in made.state_dict().items()}
    made.load_state_dict(_drawn(shapes))
    made.save_model(tmp_path / "transcoder")
    return tmp_path / "transcoder"


def test_a_transcoder_computes_its_formula(transcoder: Path, word_model: Model, word_rows: Rows):
    ours, w = load_transcoder(transcoder, word_model), load_file(transcoder / "sae_weights.safetensors")
    x = word_rows.clean
    expected = (x @ w["W_enc"] + w["b_enc"]).relu() @ w["W_dec"] + w["b_dec"] + x @ w["W_skip"].T
    with torch.no_grad():
        torch.testing.assert_close(ours(x), expected, atol=1e-3, rtol=1e-4)
        assert float((ours.decode(ours.encode(x)) - expected).abs().max()) > 1, "the skip connection is more"
    assert (site_of(ours), ours.cfg.metadata.hook_name_out, ours.cfg.d_out) == (IN, OUT, 128)


def test_each_loader_refuses_what_the_other_reads(transcoder: Path, word_sae: Path, as_sparsify: Path):
    for load, folder, line in (
        (load_sae, transcoder, "is a skip_transcoder; expected an SAE that reconstructs the site it reads"),
        (load_transcoder, word_sae, "is a topk; expected a transcoder, from one site to another; load_sae reads SAEs"),
        (load_transcoder, as_sparsify, "was not written by SAELens; expected a transcoder in its format"),
    ):
        with pytest.raises(UserError) as raised:
            load(folder)
        assert line in the_line(raised)


def _metadata(**changes: Any) -> Callable[[Path], object]:
    return change_cfg(lambda cfg: cfg["metadata"].update(changes))


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (change_cfg(lambda c: c.pop("d_out")), "says d_out=None"),
        (change_cfg(lambda c: c.update(d_out=64)), "size mismatch"),
        (_metadata(hook_name_out=None), "says hook_name_out=None"),
        (_metadata(hook_name="blocks.5.hook_resid_mid"), "unknown site 'blocks.5.hook_resid_mid'"),
        (_metadata(hook_name_out="blocks.5.hook_mlp_out"), "writes to 'blocks.5.hook_mlp_out': unknown site"),
        (_metadata(hook_name_out="blocks.0.hook_mlp_out"), "d_out=128, but blocks.0.hook_mlp_out"),
        (_metadata(hook_name=OUT), "d_in=32, but blocks.0.mlp.hook_post"),
        (_metadata(model_from_pretrained_kwargs={"fold_ln": True}), "processed weights (fold_ln)"),
    ],
)
@pytest.mark.filterwarnings(r"ignore:\s*This SAE has non-empty")
def test_a_damaged_transcoder_is_refused_in_one_line(
    transcoder: Path, word_model: Model, damage: Callable[[Path], object], line: str
):
    load_transcoder(transcoder, word_model)  # negative control
    damage(transcoder)
    with pytest.raises(UserError) as raised:
        load_transcoder(transcoder, word_model)
    assert line in the_line(raised)


def test_a_transcoder_with_nan_is_refused(transcoder: Path):
    tensors = load_file(transcoder / "sae_weights.safetensors")
    tensors["W_skip"][0, 0] = float("nan")
    save_file(tensors, transcoder / "sae_weights.safetensors")
    with pytest.raises(UserError) as raised:
        load_transcoder(transcoder)
    assert "W_skip holds 1 numbers that are NaN" in the_line(raised)


# --- the libraries themselves ---

PEERS = '''
"""Write SAEs with sparsify and dictionary_learning, and what those compute for some rows."""
import json, sys, types
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.modules["nnsight"] = types.SimpleNamespace(LanguageModel=object)  # dictionary_learning's capture; not needed here
from sparsify import SparseCoder, SparseCoderConfig
from dictionary_learning import dictionary, trainers
from dictionary_learning.trainers import matryoshka_batch_top_k as matryoshka
from dictionary_learning.trainers import batch_top_k, top_k

out = Path(sys.argv[1])
torch.manual_seed(0)
x, told = torch.randn(50, 12), {}


def stir(module):
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn_like(p) * 0.3)


sizes = {"layers.10": {"num_latents": 48}, "layers.2.mlp": {"expansion_factor": 3, "multi_topk": True}}
for name, cfg in sizes.items():
    stir(sae := SparseCoder(12, SparseCoderConfig(k=4, **cfg)))
    sae.save_to_disk(out / name)
    with torch.no_grad():
        values, places, _ = SparseCoder.load_from_disk(out / name).encode(x)
        told[name] = torch.zeros(50, sae.num_latents).scatter_(1, places, values), sae.decode(values, places)

common = {"steps": 5000, "activation_dim": 12, "dict_size": 40, "layer": 8, "lm_name": "gpt2", "device": "cpu"}
made = {
    "standard": (trainers.StandardTrainer, {}, dictionary.AutoEncoder.from_pretrained),
    "gated": (trainers.GatedSAETrainer, {}, dictionary.GatedAutoEncoder.from_pretrained),
    "jumprelu": (trainers.JumpReluTrainer, {}, dictionary.JumpReluAutoEncoder.from_pretrained),
    "topk": (trainers.TopKTrainer, {"k": 4}, top_k.AutoEncoderTopK.from_pretrained),
    "batchtopk": (trainers.BatchTopKTrainer, {"k": 4}, batch_top_k.BatchTopKSAE.from_pretrained),
    "matryoshka": (
        matryoshka.MatryoshkaBatchTopKTrainer,
        {"k": 4, "group_fractions": [0.25, 0.75]},
        matryoshka.MatryoshkaBatchTopKSAE.from_pretrained,
    ),
}
for name, (trainer, more, load) in made.items():
    trainer = trainer(**common, **more, submodule_name="resid_post_layer_8")
    stir(trainer.ae)
    if "threshold" in dict(trainer.ae.named_buffers()):
        trainer.ae.threshold.fill_(0.7)
    (out / name).mkdir()
    (out / name / "config.json").write_text(json.dumps({"trainer": trainer.config, "buffer": {"io": "out"}}))
    torch.save({k: v.cpu() for k, v in trainer.ae.state_dict().items()}, out / name / "ae.pt")  # as in training.py
    sae = load(str(out / name / "ae.pt"))
    with torch.no_grad():
        told[name] = sae.encode(x), sae(x)
flat = {f"{name} {part}": t.contiguous() for name, pair in told.items() for part, t in zip(("f", "y"), pair)}
save_file(flat | {"x": x}, out / "told.safetensors")
'''


@pytest.mark.slow
def test_the_libraries_themselves_compute_the_same(tmp_path: Path):
    """Asks the package index for the two libraries; what only their training needs is left out."""
    peers = tmp_path / "peers"
    names = ["eai-sparsify==1.3.3", "dictionary-learning==0.1.0", "natsort", "schedulefree", "simple-parsing", "einops"]
    names += ["docstring-parser"]
    for command, environment in (
        ([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(peers), *names], {}),
        ([sys.executable, "-c", PEERS, str(tmp_path)], {"PYTHONPATH": str(peers)}),
    ):
        done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    told = load_file(tmp_path / "told.safetensors")
    seen = {name.removesuffix(" f") for name in told if name.endswith(" f")}
    assert len(seen) == 8
    for name in seen:
        sae = load_sae(tmp_path / name)
        with torch.no_grad():
            features = sae.encode(told["x"])
            torch.testing.assert_close(features, told[f"{name} f"], atol=1e-5, rtol=1e-5, msg=name)
            torch.testing.assert_close(sae.decode(features), told[f"{name} y"], atol=1e-5, rtol=1e-5, msg=name)
    shutil.rmtree(peers)

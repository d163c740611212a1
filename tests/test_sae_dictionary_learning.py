"""SAEs of saprmarks' dictionary_learning against their formulas written out here; pickles, sites and every refusal."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_saes import (
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
)
from refusals import the_line
from torch import Tensor
from word_sae import SITE

from interp.errors import UserError
from interp.saes.loading.sae import load_sae, site_of

_LINEAR = {"encoder.weight": (F, D), "encoder.bias": (F,), "decoder.weight": (D, F)}
_OURS = {"W_enc": (D, F), "b_enc": (F,), "W_dec": (F, D), "b_dec": (D,)}
_NUMBERS = {"k": torch.tensor(K, dtype=torch.int), "threshold": torch.tensor(3.0)}
DICTIONARIES: dict[str, Tensors] = {
    "AutoEncoder": drawn({**_LINEAR, "bias": (D,)}),
    "AutoEncoderNew": drawn({**_LINEAR, "decoder.bias": (D,)}),
    "GatedAutoEncoder": drawn(
        {"decoder_bias": (D,), "r_mag": (F,), "gate_bias": (F,), "mag_bias": (F,)}
        | {"encoder.weight": (F, D), "decoder.weight": (D, F)}
    ),
    "JumpReluAutoEncoder": drawn({**_OURS, "threshold": (F,)}),
    "AutoEncoderTopK": drawn({**_LINEAR, "b_dec": (D,)}) | _NUMBERS,
    "BatchTopKSAE": drawn({**_LINEAR, "b_dec": (D,)}) | _NUMBERS,
    "MatryoshkaBatchTopKSAE": drawn(_OURS) | _NUMBERS | {"group_sizes": torch.tensor([10, F - 10])},
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
    f = top_k(pre, K) if name == "AutoEncoderTopK" else pre * (pre > w["threshold"])
    return f, f @ decoder + w["b_dec"]


def _write_dictionary(folder: Path, name: str, tensors: Any = None, **trainer: Any) -> Path:
    folder.mkdir(parents=True)
    torch.save(DICTIONARIES[name] if tensors is None else tensors, folder / "ae.pt")
    settings = {"trainer": TRAINER | {"dict_class": name, "k": K} | trainer, "buffer": {"io": "out", "ctx_len": 128}}
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("name", DICTIONARIES)
def test_a_dictionary_computes_the_same(tmp_path: Path, name: str):
    assert agrees(_write_dictionary(tmp_path / "trainer_0", name), *_dictionary(name, DICTIONARIES[name]))


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
    wrong = spoil(DICTIONARIES[name], tensor, expected[0])
    assert not agrees(_write_dictionary(tmp_path / "trainer_0", name, wrong), *expected)


def test_a_decoder_of_unit_norm_is_left_as_it_is(tmp_path: Path):
    tensors = {key: value.clone() for key, value in DICTIONARIES["AutoEncoder"].items()}
    tensors["decoder.weight"] /= tensors["decoder.weight"].norm(dim=0)
    sae = load_sae(_write_dictionary(tmp_path / "trainer_0", "AutoEncoder", tensors))
    assert torch.equal(sae.W_dec, tensors["decoder.weight"].T)
    tensors["decoder.weight"][:, 0] = 0  # a feature that writes nothing has no norm to divide by
    features = ((X - tensors["bias"]) @ tensors["encoder.weight"].T + tensors["encoder.bias"]).relu()
    output = features @ tensors["decoder.weight"].T + tensors["bias"]
    assert agrees(_write_dictionary(tmp_path / "trainer_1", "AutoEncoder", tensors), features, output)


def test_a_batchtopk_without_a_threshold_is_said_to_have_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    tensors = DICTIONARIES["BatchTopKSAE"] | {"threshold": torch.tensor(-1.0)}
    folder = _write_dictionary(tmp_path / "trainer_0", "BatchTopKSAE", tensors)
    assert agrees(folder, *_dictionary("BatchTopKSAE", tensors))
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


def _trainer(**changes: Any) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        cfg = json.loads((folder / "config.json").read_text())
        cfg["trainer"] |= changes
        (folder / "config.json").write_text(json.dumps(cfg))

    return damage


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
        (remove("config.json"), "has no config.json (it holds ae.pt)"),
        (remove("ae.pt"), "has no ae.pt (it holds config.json)"),
        (cut_short("ae.pt"), "ae.pt cannot be read as tensors"),
        (lambda folder: (folder / "ae.pt").write_bytes(b""), "ae.pt cannot be read as tensors"),
        (lambda folder: torch.save([1, 2], folder / "ae.pt"), "ae.pt holds a list"),
        (lambda folder: torch.save({"bias": "text"}, folder / "ae.pt"), "ae.pt holds a dict"),
        (change_tensors(lambda t: t.pop("threshold")), "has no threshold"),
        (change_tensors(lambda t: t.update(W_skip=torch.zeros(2))), "holds W_skip, which no SAE of its settings has"),
        (change_tensors(lambda t: t.update(threshold=torch.zeros(2))), "threshold is [2] of torch.float32"),
        (change_tensors(lambda t: t.update(b_dec=torch.zeros(D).to_sparse())), "torch.sparse_coo; expected [12]"),
        (
            change_tensors(lambda t: t["encoder.bias"][:1].fill_(float("inf"))),
            "b_enc holds 1 numbers that are NaN",
        ),
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

"""Sparse autoencoders on disk: the format against plain sae_lens, every refusal by its line."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sae_lens
import torch
from refusals import the_line
from safetensors.torch import load_file, save_file
from torch import Tensor
from word_sae import PLAN, SITE, TRAINING, change_cfg

from interp.activations.rows import Rows
from interp.errors import UserError
from interp.model.model import Model
from interp.saes.evaluate import random_sae_like
from interp.saes.lineage import lineage_of
from interp.saes.loading.sae import describe_sae, encode_features, load_sae, site_of
from interp.saes.training.learner import Learner, fresh
from interp.saes.training.plan import plan_sae
from interp.saes.training.processes import Ranks
from interp.saes.training.save import as_sae_lens, save_sae
from interp.saes.training.sources import Batches, MemoryRows
from interp.saes.training.trainer import train

# --- format ---


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("topk", {"k": 4}),
        ("batchtopk", {"k": 4}),
        ("matryoshka_batchtopk", {"k": 4, "matryoshka_widths": (16, 64)}),
        ("jumprelu", {"l0_coefficient": 0.05}),
        ("standard", {"l1_coefficient": 0.05}),
        ("gated", {"l1_coefficient": 0.05}),
    ],
)
def test_plain_sae_lens_loads_what_was_saved_and_computes_the_same(
    word_model: Model, word_rows: Rows, tmp_path: Path, kind: str, settings: dict[str, Any]
):
    """What the training step itself gives for the rows, in their own scale, is what both loaders give."""
    rows, source = {SITE: word_rows.clean}, MemoryRows(word_rows, word_model)
    plan = plan_sae(SITE, kind, 64, **settings)
    training = dataclasses.replace(TRAINING, lr=5e-3)
    learner = Learner(plan, training, fresh(plan, rows, 0), torch.device("cpu"), "fp32", Ranks())
    for step in range(60):
        learner.learn(Batches(source, [SITE], 128, step).next(), step)
    expected = (learner.step_on(rows, 60).error + word_rows.clean * learner.scale) / learner.scale_out
    if learner.buffers:  # outside training a threshold takes the batch's place
        w, threshold = learner.weights, learner.buffers["topk_threshold"] / learner.buffers["topk_threshold_weight"]
        pre = (word_rows.clean * learner.scale - w["b_dec"]) @ w["W_enc"].T + w["b_enc"]
        active = pre.relu() * (pre * w["W_dec"].norm(dim=1) > threshold)
        assert float((active > 0).sum(1).float().mean()) == pytest.approx(4, abs=1.8), "k, not twice as many"
        expected = (active @ w["W_dec"] + w["b_dec"]) / learner.scale
    scales, metadata = (learner.scale, learner.scale_out), lineage_of(word_model, SITE)
    save_sae(as_sae_lens(plan, learner.weights, learner.buffers, scales, metadata), tmp_path / "sae")
    theirs = sae_lens.SAE.load_from_disk(tmp_path / "sae")
    ours = load_sae(tmp_path / "sae", word_model)
    with torch.no_grad():
        for sae in (theirs, ours):
            torch.testing.assert_close(sae.decode(sae.encode(word_rows.clean)), expected, atol=1e-4, rtol=1e-5)
    assert float((expected - word_rows.clean).norm() / word_rows.clean.norm()) < 0.5, "the same, but of nothing learned"


def test_encode_and_decode_are_topk_written_out(word_sae: Path, word_rows: Rows):
    sae = load_sae(word_sae)
    w = {name: tensor.detach().double().numpy() for name, tensor in sae.state_dict().items()}
    for x in word_rows.clean[:40]:
        pre = (x.double().numpy() - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
        acts = np.zeros_like(pre)
        for i in sorted(range(len(pre)), key=lambda i: -pre[i])[: PLAN.settings.k]:
            acts[i] = max(pre[i], 0.0)
        np.testing.assert_allclose(encode_features(sae, x[None])[0], acts, atol=1e-5)
        decoded = sae.decode(torch.tensor(acts, dtype=torch.float32)).detach().numpy()
        np.testing.assert_allclose(decoded, acts @ w["W_dec"] + w["b_dec"], atol=1e-5)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(word_model: Model, word_rows: Rows, tmp_path: Path):
    torch.manual_seed(1)
    source = MemoryRows(word_rows, word_model)
    train(PLAN, source, tmp_path / "a", TRAINING)
    torch.manual_seed(2)  # the caller's random state decides nothing
    train(PLAN, source, tmp_path / "b", TRAINING)
    train(PLAN, source, tmp_path / "c", dataclasses.replace(TRAINING, seed=1))
    weights = [(tmp_path / name / "sae_weights.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1] != weights[2]


def test_a_description_is_json_and_tells_saes_apart(word_model: Model, word_rows: Rows, word_sae: Path):
    sae = load_sae(word_sae, word_model)
    told = describe_sae(sae)
    assert json.loads(json.dumps(told)) == told
    assert (told["site"], told["d_in"], told["d_sae"], told["k"]) == (SITE, 32, 64, 4)
    assert told["lineage"]["weights_hash"] == word_model.provenance.weights
    assert told["tensors"] == describe_sae(load_sae(word_sae))["tensors"]
    assert told["tensors"] != describe_sae(random_sae_like(sae, 0, word_rows))["tensors"]


def test_a_flat_file_of_saelens_before_6_loads(sae_copy: Path, word_model: Model, word_rows: Rows, word_sae: Path):
    flat = {
        "architecture": "topk",
        "d_in": 32,
        "d_sae": 64,
        "dtype": "float32",
        "hook_name": SITE,
        "prepend_bos": True,
        "activation_fn": "topk",
        "activation_fn_kwargs": {"k": 4},
    }
    (sae_copy / "cfg.json").write_text(json.dumps(flat))
    sae = load_sae(sae_copy, word_model)
    assert site_of(sae) == SITE
    np.testing.assert_allclose(
        encode_features(sae, word_rows.clean), encode_features(load_sae(word_sae), word_rows.clean), atol=1e-5
    )


# --- refusals of a folder ---


def _rename(part: Callable[[dict[str, Any]], dict[str, Any]], old: str, new: str) -> Callable[[Path], None]:
    def change(cfg: dict[str, Any]) -> None:
        part(cfg)[new] = part(cfg).pop(old)

    return change_cfg(change)


def _weights(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / "sae_weights.safetensors")
        change(tensors)
        save_file(tensors, folder / "sae_weights.safetensors")

    return damage


def _file(name: str, content: bytes | None) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).unlink() if content is None else (folder / name).write_bytes(content)

    return damage


def _cut(folder: Path) -> None:
    path = folder / "sae_weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _pickle_beside(folder: Path) -> None:
    (folder / "sae_weights.safetensors").rename(folder / "sae_weights.pt")


def _zip_pickle(folder: Path) -> None:
    torch.save({"W_dec": torch.zeros(2)}, folder / "sae_weights.safetensors")


def _whole(cfg: dict[str, Any]) -> dict[str, Any]:
    return cfg


def _metadata(cfg: dict[str, Any]) -> dict[str, Any]:
    return cfg["metadata"]


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (shutil.rmtree, "no folder"),
        (_file("cfg.json", None), "has no cfg.json (it holds metrics.jsonl, sae_weights.safetensors)"),
        (_file("cfg.json", b'{"d_in": 3'), "is not JSON"),
        (_file("cfg.json", b"\xff\xfe\x00"), "is not JSON"),
        (_file("cfg.json", b"[1, 2]"), "is a JSON list"),
        (change_cfg(lambda c: c.pop("d_in")), "d_in=None; expected a whole number"),
        (change_cfg(lambda c: c.update(d_sae="64")), "d_sae='64'; expected a whole number"),
        (change_cfg(lambda c: c.update(k=65)), "k=65 of d_sae=64"),
        (change_cfg(lambda c: c.update(metadata=None)), "metadata in cfg.json is a NoneType"),
        (change_cfg(lambda c: c["metadata"].pop("hook_name")), "hook_name=None"),
        (change_cfg(lambda c: c["metadata"].pop("sae_lens_version")), "has no sae_lens_version"),
        (change_cfg(lambda c: c.update(architecture="topkk")), "unknown architecture 'topkk'; nearest: 'topk'"),
        (change_cfg(lambda c: c.update(architecture="transcoder")), "is a transcoder"),
        (change_cfg(lambda c: c.update(dtype="flaot32")), "flaot32"),
        (change_cfg(lambda c: c.update(normalize_activations="expected_average_only_in")), "wants activations scaled"),
        (_rename(_whole, "k", "K"), "unknown key 'K'; expected 'k'"),
        (_rename(_whole, "metadata", "metadta"), "unknown key 'metadta'; expected 'metadata'"),
        (_rename(_whole, "architecture", "architectur"), "unknown key 'architectur'; expected 'architecture'"),
        (_rename(_whole, "apply_b_dec_to_input", "apply_b_dec_to_inptu"), "expected 'apply_b_dec_to_input'"),
        (_rename(_metadata, "hook_name", "hok_name"), "unknown key 'hok_name'; expected 'hook_name'"),
        (_rename(_metadata, "weights_hash", "weigths_hash"), "unknown key 'weigths_hash'; expected 'weights_hash'"),
        (_file("sae_weights.safetensors", None), "has no sae_weights.safetensors"),
        (_file("sae_weights.safetensors", b""), "SafetensorError"),
        (_file("sae_weights.safetensors", pickle.dumps({"W_dec": [1.0]})), "is a pickle under another name"),
        (_zip_pickle, "is a pickle under another name"),
        (_pickle_beside, "sae_weights.pt, a pickle"),
        (_cut, "SafetensorError"),
        (_weights(lambda t: t.update(W_dec=t["W_dec"][:, :-1].contiguous())), "size mismatch for W_dec"),
        (_weights(lambda t: t.pop("b_enc")), "b_enc"),
        (_weights(lambda t: t["W_enc"].view(-1)[3].fill_(float("nan"))), "W_enc holds 1 numbers that are NaN"),
        (_weights(lambda t: t["b_dec"][:2].fill_(float("inf"))), "b_dec holds 2 numbers that are NaN or inf"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(sae_copy: Path, damage: Callable[[Path], None], line: str):
    load_sae(sae_copy)  # negative control: before the damage it loads
    damage(sae_copy)
    with pytest.raises(UserError) as raised:
        load_sae(sae_copy)
    assert line in the_line(raised)


def test_a_file_in_place_of_the_folder_is_refused(word_sae: Path):
    with pytest.raises(UserError) as raised:
        load_sae(word_sae / "cfg.json")
    assert "is a file" in the_line(raised)


def test_a_flipped_bit_is_found_by_the_manifest(word_sae: Path, tmp_path: Path):
    shutil.copytree(word_sae, tmp_path / "sae")
    path = tmp_path / "sae" / "sae_weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError) as raised:
        load_sae(tmp_path / "sae")
    assert "no longer match manifest.json" in the_line(raised)

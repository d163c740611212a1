"""Sparse autoencoders: the format against plain sae_lens, the arithmetic against loops, every refusal by its line."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sae_lens
import torch
from sae_lens import SAE, TopKSAE, TopKSAEConfig
from sae_lens.saes.sae import SAEMetadata
from safetensors.torch import load_file, save_file
from torch import Tensor

from interp.activations.rows import Rows, capture_rows
from interp.errors import UserError
from interp.model.cache import MANIFEST, is_intact
from interp.model.hooks import Site
from interp.model.model import Model
from interp.model.small import SmallGPT2, train_small_gpt2
from interp.saes.edits import mean_ablate, reconstruct
from interp.saes.evaluate import SAEReport, evaluate_sae, evaluate_saes, random_sae_like
from interp.saes.lineage import lineage_of
from interp.saes.load import describe_sae, encode_features, load_sae, site_of
from interp.saes.train import TopKSettings, save_sae, train_topk

SITE = "blocks.0.hook_resid_post"
SIZE = SmallGPT2(d_model=32, n_heads=2, steps=60)
SETTINGS = TopKSettings(d_sae=64, k=4, steps=100, batch=128)
WORDS = product(
    ["ann", "bob", "cat", "dog", "eve", "fox"], ["likes", "sees", "eats"], ["red", "big", "old"], ["hat", "sun"]
)
SENTENCES = [
    f"{a} {verb} the {c} {b}" + f" and the {a} sleeps" * (i // 2 % 2) for i, (a, verb, c, b) in enumerate(WORDS)
]


@pytest.fixture(scope="module")
def model() -> Model:
    torch.set_num_threads(1)  # two threads on cores that other processes share are far slower than one
    return train_small_gpt2(SENTENCES, SIZE)


@pytest.fixture(scope="module")
def rows(model: Model) -> Rows:
    return capture_rows(model, SENTENCES[::2], SITE)


@pytest.fixture(scope="module")
def saved(model: Model, rows: Rows, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sae(train_topk(rows, model, SETTINGS), tmp_path_factory.mktemp("saes") / "sae")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to damage, without the manifest, so that each check is met on its own."""
    shutil.copytree(saved, tmp_path / "sae")
    (tmp_path / "sae" / MANIFEST).unlink()
    return tmp_path / "sae"


@pytest.fixture(scope="module")
def report(model: Model, saved: Path) -> SAEReport:
    return evaluate_sae(load_sae(saved, model), model, SENTENCES[1::2])


def the_line(raised: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(raised.value)
    return str(raised.value)


# --- format ---------------------------------------------------------------------------------------------------------


def test_plain_sae_lens_loads_what_was_saved_and_computes_the_same(model: Model, rows: Rows, tmp_path: Path):
    trained = train_topk(rows, model, SETTINGS)
    theirs = sae_lens.SAE.load_from_disk(save_sae(trained, tmp_path / "sae"))
    ours = load_sae(tmp_path / "sae", model)
    assert isinstance(theirs, TopKSAE)
    with torch.no_grad():
        expected = trained.decode(trained.encode(rows.clean))
        for sae in (theirs, ours):
            torch.testing.assert_close(sae.decode(sae.encode(rows.clean)), expected, atol=1e-5, rtol=1e-5)
    assert float((expected - rows.clean).norm() / rows.clean.norm()) < 0.5, "the same, but of nothing learned"


def test_encode_and_decode_are_topk_written_out(saved: Path, rows: Rows):
    sae = load_sae(saved)
    w = {name: tensor.detach().double().numpy() for name, tensor in sae.state_dict().items()}
    for x in rows.clean[:40]:
        pre = (x.double().numpy() - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
        acts = np.zeros_like(pre)
        for i in sorted(range(len(pre)), key=lambda i: -pre[i])[: SETTINGS.k]:
            acts[i] = max(pre[i], 0.0)
        np.testing.assert_allclose(encode_features(sae, x[None])[0], acts, atol=1e-5)
        decoded = sae.decode(torch.tensor(acts, dtype=torch.float32)).detach().numpy()
        np.testing.assert_allclose(decoded, acts @ w["W_dec"] + w["b_dec"], atol=1e-5)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(model: Model, rows: Rows, tmp_path: Path):
    torch.manual_seed(1)
    first = save_sae(train_topk(rows, model, SETTINGS), tmp_path / "a")
    torch.manual_seed(2)  # the caller's random state decides nothing
    again = save_sae(train_topk(rows, model, SETTINGS), tmp_path / "b")
    other = save_sae(train_topk(rows, model, dataclasses.replace(SETTINGS, seed=1)), tmp_path / "c")
    weights = [(path / "sae_weights.safetensors").read_bytes() for path in (first, again, other)]
    assert weights[0] == weights[1] != weights[2]


def test_a_description_is_json_and_tells_saes_apart(model: Model, saved: Path):
    sae = load_sae(saved, model)
    told = describe_sae(sae)
    assert json.loads(json.dumps(told)) == told
    assert (told["site"], told["d_in"], told["d_sae"], told["k"]) == (SITE, 32, 64, 4)
    assert told["lineage"]["weights_hash"] == model.provenance.weights
    assert told["tensors"] == describe_sae(load_sae(saved))["tensors"]
    assert told["tensors"] != describe_sae(random_sae_like(sae, 0))["tensors"]


def test_a_flat_file_of_saelens_before_6_loads(folder: Path, model: Model, rows: Rows, saved: Path):
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
    (folder / "cfg.json").write_text(json.dumps(flat))
    sae = load_sae(folder, model)
    assert site_of(sae) == SITE
    np.testing.assert_allclose(
        encode_features(sae, rows.clean), encode_features(load_sae(saved), rows.clean), atol=1e-5
    )


# --- refusals of a folder -------------------------------------------------------------------------------------------


def _cfg(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        cfg = json.loads((folder / "cfg.json").read_text())
        change(cfg)
        (folder / "cfg.json").write_text(json.dumps(cfg))

    return damage


def _rename(part: Callable[[dict[str, Any]], dict[str, Any]], old: str, new: str) -> Callable[[Path], None]:
    def change(cfg: dict[str, Any]) -> None:
        part(cfg)[new] = part(cfg).pop(old)

    return _cfg(change)


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
        (_file("cfg.json", None), "has no cfg.json (it holds sae_weights.safetensors)"),
        (_file("cfg.json", b'{"d_in": 3'), "is not JSON"),
        (_file("cfg.json", b"\xff\xfe\x00"), "is not JSON"),
        (_file("cfg.json", b"[1, 2]"), "is a JSON list"),
        (_cfg(lambda c: c.pop("d_in")), "d_in=None; expected a whole number"),
        (_cfg(lambda c: c.update(d_sae="64")), "d_sae='64'; expected a whole number"),
        (_cfg(lambda c: c.update(k=65)), "k=65 of d_sae=64"),
        (_cfg(lambda c: c.update(metadata=None)), "metadata in cfg.json is a NoneType"),
        (_cfg(lambda c: c["metadata"].pop("hook_name")), "hook_name=None"),
        (_cfg(lambda c: c["metadata"].pop("sae_lens_version")), "has no sae_lens_version"),
        (_cfg(lambda c: c.update(architecture="topkk")), "unknown architecture 'topkk'; nearest: 'topk'"),
        (_cfg(lambda c: c.update(architecture="transcoder")), "is a transcoder"),
        (_cfg(lambda c: c.update(dtype="flaot32")), "flaot32"),
        (_cfg(lambda c: c.update(normalize_activations="expected_average_only_in")), "wants activations scaled"),
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
def test_a_damaged_folder_is_refused_in_one_line(folder: Path, damage: Callable[[Path], None], line: str):
    load_sae(folder)  # negative control: before the damage it loads
    damage(folder)
    with pytest.raises(UserError) as raised:
        load_sae(folder)
    assert line in the_line(raised)


def test_a_file_in_place_of_the_folder_is_refused(saved: Path):
    with pytest.raises(UserError) as raised:
        load_sae(saved / "cfg.json")
    assert "is a file" in the_line(raised)


def test_a_flipped_bit_is_found_by_the_manifest(saved: Path, tmp_path: Path):
    shutil.copytree(saved, tmp_path / "sae")
    path = tmp_path / "sae" / "sae_weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError) as raised:
        load_sae(tmp_path / "sae")
    assert "no longer match manifest.json" in the_line(raised)


# --- refusals of a model --------------------------------------------------------------------------------------------


def _with(model: Model, **changes: Any) -> Model:
    return Model(model.hf, model.tokenizer, dataclasses.replace(model.provenance, **changes))


@pytest.mark.parametrize(
    ("changes", "word", "shown"),
    [
        ({"weights": "sha256:other"}, "model weights", "sha256:other"),
        ({"tokenizer": "sha256:else"}, "tokenizer", "sha256:else"),
        ({"numerics": "folded"}, "numerics (raw Hugging Face weights", "(folded)"),
        ({"bos": {"policy": "never", "tokenizer_adds": True, "token": "<bos>"}}, "BOS policy (tokenizer)", "(never)"),
    ],
)
def test_an_sae_of_another_model_is_refused_and_both_are_shown(
    model: Model, saved: Path, changes: dict[str, Any], word: str, shown: str
):
    with pytest.raises(UserError) as raised:
        load_sae(saved, _with(model, **changes))
    assert f"its {word}" in the_line(raised)
    assert shown in str(raised.value)


def test_an_sae_of_another_width_is_refused(saved: Path):
    wider = train_small_gpt2(SENTENCES[:20], SmallGPT2(d_model=48, n_heads=2, steps=1))
    with pytest.raises(UserError) as raised:
        load_sae(saved, wider)
    assert "d_in=32" in the_line(raised)
    assert "48 wide" in str(raised.value)


@pytest.mark.parametrize(
    ("site", "line"),
    [
        ("blocks.5.hook_resid_post", "unknown site 'blocks.5.hook_resid_post'"),
        ("blocks.*.hook_resid_post", "expected one site with one vector a token"),
        ("blocks.0.attn.hook_z", "expected one site with one vector a token"),
    ],
)
def test_an_sae_of_a_site_that_the_model_lacks_is_refused(model: Model, folder: Path, site: str, line: str):
    _cfg(lambda cfg: cfg["metadata"].update(hook_name=site))(folder)
    with pytest.raises(UserError) as raised:
        load_sae(folder, model)
    assert line in the_line(raised)


def _foreign(**metadata: Any) -> Callable[[Path], None]:
    return _cfg(lambda cfg: cfg.update(metadata={"sae_lens_version": "6.54.0", "hook_name": SITE} | metadata))


def test_of_a_foreign_sae_it_is_said_what_could_not_be_checked(
    model: Model, folder: Path, capsys: pytest.CaptureFixture[str]
):
    _foreign()(folder)
    load_sae(folder, model)
    said = capsys.readouterr().err
    assert "not checked: model name" in said
    assert all(word in said for word in ("model weights", "tokenizer", "numerics", "BOS policy"))


@pytest.mark.parametrize(
    ("metadata", "line"),
    [
        ({"model_name": "pythia-70m"}, "trained on 'pythia-70m', but the loaded model is 'openai-community/gpt2'"),
        ({"prepend_bos": False}, "trained with prepend_bos=False, but the model's prompts get a BOS token"),
        (
            {"model_from_pretrained_kwargs": {"center_writing_weights": True}},
            "processed weights (center_writing_weights)",
        ),
    ],
)
@pytest.mark.filterwarnings(r"ignore:\s*This SAE has non-empty")  # what is refused here, sae_lens only warns of
def test_a_foreign_sae_is_refused_for_what_can_be_checked(
    model: Model, folder: Path, metadata: dict[str, Any], line: str
):
    hub = _with(model, source="hub", name="openai-community/gpt2")
    _foreign(model_name="gpt2-small", prepend_bos=True)(folder)
    load_sae(folder, hub)  # negative control: this one fits
    _foreign(**metadata)(folder)
    with pytest.raises(UserError) as raised:
        load_sae(folder, hub)
    assert line in the_line(raised)


# --- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"k": 65}, "k=65 is above the width 64"),
        ({"k": 0}, "k=0; expected 1 or more"),
        ({"steps": 0}, "steps=0; expected 1 or more"),
        ({"batch": 100_000}, "fewer than a batch of 100000"),
    ],
)
def test_training_refuses_settings_that_cannot_work(model: Model, rows: Rows, settings: dict[str, int], line: str):
    with pytest.raises(UserError) as raised:
        train_topk(rows, model, dataclasses.replace(SETTINGS, **settings))
    assert line in the_line(raised)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_training_refuses_rows_that_are_not_finite(model: Model, rows: Rows, bad: float):
    values = rows.values.clone()
    values[7, 3] = bad
    with pytest.raises(UserError) as raised:
        train_topk(dataclasses.replace(rows, values=values), model, SETTINGS)
    assert "row 7" in the_line(raised)


def test_an_sae_is_written_whole_or_not_at_all(
    model: Model, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sae = train_topk(rows, model, dataclasses.replace(SETTINGS, steps=1))

    def full_disk(folder: Path) -> None:
        (folder / "cfg.json").write_text("{}")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(sae, "save_inference_model", full_disk)
        with pytest.raises(UserError, match="No space left"):
            save_sae(sae, tmp_path / "sae")
    assert list(tmp_path.iterdir()) == []
    save_sae(sae, tmp_path / "sae")
    assert is_intact(tmp_path / "sae")
    with pytest.raises(UserError, match="exists already"):
        save_sae(sae, tmp_path / "sae")


# --- edits ----------------------------------------------------------------------------------------------------------


def _batch(d: int = 32) -> tuple[Tensor, Site]:
    """Two prompts, the second one left-padded by two, with a sink at the first one's position 3."""
    generator = torch.Generator().manual_seed(0)
    activation = torch.randn(2, 6, d, generator=generator)
    activation[0, 3] *= 100
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, :2] = False
    return activation, Site(SITE, torch.arange(2), 2, mask, ("prompt", "pos", "feature"))


EDITED = [[False, True, True, False, True, True], [False, False, False, True, True, True]]


def test_reconstruct_replaces_real_tokens_and_leaves_sinks_and_padding(saved: Path):
    sae, (activation, site) = load_sae(saved), _batch()
    before = activation.clone()
    out = reconstruct(sae)(activation, site)
    chosen = torch.tensor(EDITED)
    with torch.no_grad():
        torch.testing.assert_close(out[chosen], sae.decode(sae.encode(activation[chosen])))
    assert torch.equal(out[~chosen], activation[~chosen])
    assert torch.equal((out != activation).any(-1), chosen)
    assert torch.equal(activation, before), "the edit works on a copy"


def test_with_its_error_kept_a_reconstruction_is_the_activation(saved: Path, model: Model):
    activation, site = _batch()
    torch.testing.assert_close(reconstruct(load_sae(saved), keep_error=True)(activation, site), activation)
    clean = model.logits(SENTENCES[:4])
    with model.edit({SITE: reconstruct(load_sae(saved), keep_error=True)}):
        kept = model.logits(SENTENCES[:4])
    with model.edit({SITE: reconstruct(load_sae(saved))}) as receipts:
        dropped = model.logits(SENTENCES[:4])
    torch.testing.assert_close(kept, clean, atol=1e-4, rtol=1e-4, equal_nan=True)
    assert not torch.allclose(dropped, clean, atol=1e-2, equal_nan=True)
    assert receipts[SITE].norm_change > 0


def test_mean_ablation_puts_the_mean_at_the_same_tokens():
    activation, site = _batch()
    out = mean_ablate(torch.full((32,), 7.0))(activation, site)
    assert torch.equal((out == 7.0).all(-1), torch.tensor(EDITED))
    assert torch.equal(out[~torch.tensor(EDITED)], activation[~torch.tensor(EDITED)])


def test_a_typical_norm_from_outside_decides_what_a_sink_is():
    activation, site = _batch()
    out = mean_ablate(torch.zeros(32), typical_norm=1e4)(activation, site)
    assert bool((out[0, 3] == 0).all()), "against so large a norm the long vector is no sink"
    assert torch.equal(out[0, 0], activation[0, 0]), "position 0 always is"


def test_an_edit_at_a_site_of_another_shape_is_refused(saved: Path):
    activation, site = _batch(48)
    with pytest.raises(UserError, match=r"d_in=32, but .* is 48 wide"):
        reconstruct(load_sae(saved))(activation, site)
    with pytest.raises(UserError, match=r"shape \(3,\); expected \(48,\)"):
        mean_ablate(torch.zeros(3))(activation, site)
    heads = dataclasses.replace(site, axes=("prompt", "pos", "feature", "feature"))
    with pytest.raises(UserError, match="replaces one vector a token"):
        mean_ablate(torch.zeros(32))(torch.zeros(2, 6, 4, 32), heads)


# --- evaluation -----------------------------------------------------------------------------------------------------


def _handmade(model: Model, w_enc: Tensor, w_dec: Tensor, b_dec: Tensor, k: int) -> SAE[Any]:
    metadata = SAEMetadata(**lineage_of(model, SITE), context_size=20)
    sae = TopKSAE(TopKSAEConfig(d_in=w_enc.shape[0], d_sae=w_enc.shape[1], k=k, metadata=metadata))
    sae.load_state_dict({"W_enc": w_enc, "W_dec": w_dec, "b_dec": b_dec, "b_enc": torch.zeros(w_enc.shape[1])})
    return sae


def test_the_identity_scores_one_and_the_mean_scores_zero(model: Model):
    """Known answers: x = relu(x) - relu(-x), and an SAE that always gives the mean of the tokens evaluated."""
    both = torch.cat([torch.eye(32), -torch.eye(32)], dim=1)
    identity = _handmade(model, both, both.T.contiguous(), torch.zeros(32), k=64)
    mean = capture_rows(model, SENTENCES[1::2], SITE).clean.mean(0)
    constant = _handmade(model, torch.zeros(32, 8), torch.zeros(8, 32), mean, k=2)
    one, zero = evaluate_saes([identity, constant], model, SENTENCES[1::2])
    assert one.ce_recovered is not None
    assert zero.ce_recovered is not None
    assert one.explained_variance == pytest.approx((1, 1, 1), abs=1e-9)
    assert one.ce_recovered == pytest.approx((1, 1, 1), abs=1e-6)
    assert one.ce_reconstruction == pytest.approx(one.ce_clean, abs=1e-6)
    assert zero.explained_variance.mean == pytest.approx(0, abs=1e-6)
    assert zero.ce_recovered == pytest.approx((0, 0, 0), abs=1e-6)
    assert (zero.l0, zero.dead_share) == (0, 1)
    assert one.l0 == pytest.approx(32, abs=0.1), "each number is either above or below zero"


def _by_hand(model: Model, saved: Path, documents: list[str]) -> dict[str, list[float]]:
    """Every sum per document, by plain loops in float64, losses through transformers' own forward with its own hook."""
    sae = load_sae(saved)
    encoded = model.encode(documents)
    captured = [model.capture([ids], SITE)[SITE][0].double() for ids in encoded]
    mean = torch.cat([x[1:] for x in captured]).mean(0)
    out: dict[str, list[float]] = {"error": [], "clean": [], "reconstruction": [], "mean": [], "zero": []}
    for ids, x in zip(encoded, captured, strict=True):
        with torch.no_grad():
            recon = sae.decode(sae.encode(x.float())).double()
        out["error"].append(sum(float(((a - b) ** 2).sum()) for a, b in zip(x[1:], recon[1:], strict=True)))
        swaps = {"clean": x, "reconstruction": recon, "mean": mean.expand_as(x), "zero": torch.zeros_like(x)}
        for name, swap in swaps.items():
            block = model.hf.get_submodule("transformer.h.0")

            def put(module: object, args: object, result: Any, swap: Tensor = swap) -> Any:
                hidden = result[0] if isinstance(result, tuple) else result
                hidden = torch.cat([hidden[:, :1], swap[None, 1:].float()], dim=1)  # position 0 is a sink
                return (hidden, *result[1:]) if isinstance(result, tuple) else hidden

            handle = block.register_forward_hook(put)
            with torch.no_grad():
                logprobs = model.hf(torch.tensor([ids])).logits[0].double().log_softmax(-1)
            handle.remove()
            out[name].append(-sum(float(logprobs[p, ids[p + 1]]) for p in range(1, len(ids) - 1)))
    return out


def test_the_metrics_are_those_of_a_hand_computation(model: Model, saved: Path):
    documents = SENTENCES[1:20:2]
    report = evaluate_sae(load_sae(saved, model), model, documents, n_boot=200, seed=3)
    sums = {name: np.array(values) for name, values in _by_hand(model, saved, documents).items()}
    encoded = model.encode(documents)
    predictions = sum(len(ids) - 2 for ids in encoded)
    x = [model.capture([ids], SITE)[SITE][0, 1:].double() for ids in encoded]

    def explained(chosen: list[int]) -> float:
        pooled = torch.cat([x[d] for d in chosen])
        return 1 - sums["error"][chosen].sum() / float((pooled - torch.cat(x).mean(0)).square().sum())

    def recovered(chosen: list[int]) -> float:
        clean, ours, mean = (sums[name][chosen].sum() for name in ("clean", "reconstruction", "mean"))
        return (mean - ours) / (mean - clean)

    assert report.n_predictions == predictions
    assert (report.n_documents, report.n_sinks) == (10, 10)
    assert report.n_tokens == sum(len(ids) - 1 for ids in encoded)
    for name, value in (
        ("clean", report.ce_clean),
        ("reconstruction", report.ce_reconstruction),
        ("mean", report.ce_mean_ablation),
        ("zero", report.ce_zero_ablation),
    ):
        assert value == pytest.approx(sums[name].sum() / predictions, abs=1e-4), name
    drawn = np.random.default_rng(3).multinomial(10, np.full(10, 0.1), size=200)
    resamples = [[d for d, n in enumerate(counts) for _ in range(n)] for counts in drawn]
    for measured, statistic in ((report.explained_variance, explained), (report.ce_recovered, recovered)):
        assert measured is not None
        low, high = np.percentile([statistic(chosen) for chosen in resamples], [2.5, 97.5])
        assert measured == pytest.approx((statistic(list(range(10))), low, high), abs=2e-4)


def test_sparsity_and_dead_features_are_counted_on_tokens_that_are_no_sinks(
    model: Model, saved: Path, report: SAEReport
):
    sae, clean = load_sae(saved), capture_rows(model, SENTENCES[1::2], SITE).clean
    active = encode_features(sae, clean) > 0
    assert report.l0 == pytest.approx(active.sum() / len(clean))
    assert report.l0 <= SETTINGS.k
    assert report.dead_share == pytest.approx(1 - active.any(0).mean())
    assert report.n_tokens == len(clean)


def test_a_trained_sae_beats_random_directions(model: Model, saved: Path, report: SAEReport):
    """The positive control: on activations with structure, training must find more than chance does."""
    sae = load_sae(saved)
    for seed in range(2):
        null = evaluate_sae(random_sae_like(sae, seed), model, SENTENCES[1::2])
        assert report.explained_variance.low > null.explained_variance.high + 0.1
        assert report.ce_recovered is not None
        assert null.ce_recovered is not None
        assert report.ce_recovered.low > null.ce_recovered.high
        assert null.l0 == pytest.approx(SETTINGS.k, abs=0.1), "the null must be as sparse"


def test_a_random_control_has_the_same_shape_and_other_directions(saved: Path):
    sae = load_sae(saved)
    before = {name: tensor.clone() for name, tensor in sae.state_dict().items()}
    one, again, other = (random_sae_like(sae, seed) for seed in (0, 0, 1))
    assert all(torch.equal(sae.state_dict()[name], tensor) for name, tensor in before.items())
    assert torch.equal(one.W_dec, again.W_dec)
    assert not torch.allclose(one.W_dec, other.W_dec)
    assert torch.equal(one.b_dec, sae.b_dec)
    assert torch.equal(one.W_enc, one.W_dec.T), "it reads along the directions that it writes"
    torch.testing.assert_close(one.W_dec.norm(dim=-1), torch.ones(64))
    assert "random" in describe_sae(one)["lineage"]["control"]
    assert "control" not in describe_sae(sae)["lineage"]
    standard = sae_lens.StandardSAE(sae_lens.StandardSAEConfig(d_in=4, d_sae=8))
    with pytest.raises(UserError, match="expected a TopK SAE"):
        random_sae_like(standard, 0)


def test_evaluation_keeps_to_the_token_limit_and_tells_progress(model: Model, saved: Path):
    told: list[tuple[int, int]] = []
    report = evaluate_sae(
        load_sae(saved), model, SENTENCES[1::2], max_tokens=33, progress=lambda done, total: told.append((done, total))
    )
    assert report.n_tokens + report.n_sinks == 33
    assert told[-1] == (5 * 33, 5 * 33)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


@pytest.mark.parametrize("documents", [[SENTENCES[0]], ["ann", "bob"]])
def test_too_little_text_is_refused(model: Model, saved: Path, documents: list[str]):
    with pytest.raises(UserError) as raised:
        evaluate_sae(load_sae(saved), model, documents)
    assert "expected two or more documents" in the_line(raised)


def test_evaluation_refuses_an_sae_of_another_model(model: Model, saved: Path):
    with pytest.raises(UserError, match="its model weights"):
        evaluate_sae(load_sae(saved), _with(model, weights="sha256:other"), SENTENCES)

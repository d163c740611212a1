"""SAEs by name, from a hub on 127.0.0.1: what comes, what is asked of the hub, and what a cache is good for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub import LocalHub
from huggingface_hub import constants
from release_hub import (
    LM_SAE,
    NAME,
    TM,
    WEIGHTS,
    X,
    connect,
    expected,
    far,
    refused,
    serve,
    write_repos,
    write_sae,
)
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
from word_sae import SITE, with_provenance

from interp.model.model import Model
from interp.saes.loading.sae import load_sae, site_of


@pytest.fixture(scope="module")
def repos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repos(tmp_path_factory.mktemp("repos"))


@pytest.fixture
def hub(repos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """The hub is up, and the cache is empty."""
    with LocalHub() as hub:
        connect(monkeypatch, hub.endpoint, tmp_path / "hf")
        yield serve(hub, repos)


# --- what comes ---


@pytest.mark.filterwarnings(r"ignore:\s*This SAE has non-empty")  # sae_lens says how to load it elsewhere
def test_a_release_is_downloaded_once_and_then_comes_from_the_cache(hub: LocalHub):
    assert far(NAME, expected()) < 1e-4
    asked = list(hub.requests)
    assert len(hub.downloads()) == 2, "its settings and its weights, nothing else of the repo"
    assert far(NAME, expected()) < 1e-4
    assert hub.requests == asked, "the second time the hub is asked nothing"
    wrong = WEIGHTS | {"b_dec": WEIGHTS["b_dec"] + 0.1}
    assert far(NAME, expected(wrong)) > 0.01, "negative control"


@pytest.mark.filterwarnings(r"ignore:\s*This SAE has non-empty")
def test_a_release_knows_its_site_and_what_the_list_adds(hub: LocalHub):
    sae = load_sae(NAME)
    assert site_of(sae) == "blocks.0.hook_resid_pre"
    assert sae.cfg.metadata.model_from_pretrained_kwargs == {"center_writing_weights": True}
    assert sae.cfg.metadata.neuronpedia_id == "gpt2-small/0-res-jb"
    assert (str(sae.device), sae.dtype) == ("cpu", torch.float32), "whatever its file says of the training machine"


@pytest.mark.filterwarnings(r"ignore:\s*This SAE has non-empty")
def test_the_lists_scale_is_folded_into_the_weights(hub: LocalHub):
    scale = get_pretrained_saes_directory()["gpt2-small-mlp-tm"].norm_scaling_factor["blocks.0.hook_mlp_out"]
    assert far("gpt2-small-mlp-tm:blocks.0.hook_mlp_out", expected(scale=scale)) < 1e-4
    folder = get_pretrained_saes_directory()["gpt2-small-mlp-tm"].saes_map["blocks.0.hook_mlp_out"]
    assert "wants activations scaled" in refused(load_sae, f"{TM}:{folder}"), "from the repo alone it is not known"


@pytest.mark.parametrize("source", ["someone/saes:deep/er", "someone/top:."])
def test_any_folder_of_any_repo_comes_by_its_name(hub: LocalHub, source: str):
    assert far(source, expected()) < 1e-4
    assert len(hub.downloads()) == 2


def test_a_sparsify_folder_of_a_repo_comes_with_what_its_run_says(hub: LocalHub):
    assert far("someone/saes:layers.0", expected()) < 1e-4
    metadata = load_sae("someone/saes:layers.0").cfg.metadata
    assert (metadata.hook_name, metadata.model_name) == ("blocks.0.hook_resid_post", "a/b")


def test_a_dictionary_of_a_repo_and_of_a_release_are_the_same(hub: LocalHub):
    assert far("sae_bench_pythia70m_sweep_topk_ctx128_0730:blocks.3.hook_resid_post__trainer_0", expected()) < 1e-4
    folder = "pythia70m_sweep_topk_ctx128_0730/resid_post_layer_3/trainer_0"
    assert far(f"{LM_SAE}:{folder}", expected()) < 1e-4
    assert site_of(load_sae(f"{LM_SAE}:{folder}")) == "blocks.3.hook_resid_post"


def test_a_path_that_exists_wins_over_a_name(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    zeros = {name: torch.zeros_like(tensor) for name, tensor in WEIGHTS.items()}
    write_sae(tmp_path / NAME, zeros)
    assert far(NAME, torch.zeros_like(X)) == 0
    assert far(Path(NAME), torch.zeros_like(X)) == 0
    assert not hub.requests


# --- on a model ---


def test_a_release_is_checked_against_the_model(hub: LocalHub, word_model: Model, capsys: pytest.CaptureFixture[str]):
    gpt2 = with_provenance(word_model, source="hub", name="gpt2")
    sae = load_sae("gpt2-small-resid-post-v5-32k:blocks.0.hook_resid_post", gpt2)
    assert site_of(sae) == SITE
    assert "made elsewhere; site and width fit; not checked: model weights" in capsys.readouterr().err
    pythia = with_provenance(word_model, source="hub", name="pythia-70m")
    line = refused(lambda name: load_sae(name, pythia), "gpt2-small-resid-post-v5-32k:blocks.0.hook_resid_post")
    assert "was trained on 'gpt2-small', but the loaded model is 'pythia-70m'" in line


@pytest.mark.filterwarnings(r"ignore:\s*This SAE has non-empty")
def test_a_release_trained_on_centred_weights_is_refused_on_raw_ones(hub: LocalHub, word_model: Model):
    gpt2 = with_provenance(word_model, source="hub", name="gpt2")
    line = refused(lambda name: load_sae(name, gpt2), NAME)
    assert "was trained on processed weights (center_writing_weights)" in line


# --- without a network ---


@pytest.fixture(params=["offline", "unplugged"])
def gone(
    request: pytest.FixtureRequest, repos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, list[str]]:
    """The hub was there for one SAE of each way to load, and is gone: the network's state, and their names."""
    names = [NAME, "someone/saes:layers.0"]
    names += ["sae_bench_pythia70m_sweep_topk_ctx128_0730:blocks.3.hook_resid_post__trainer_0"]
    with LocalHub() as hub:
        connect(monkeypatch, serve(hub, repos).endpoint, tmp_path / "hf")
        for name in names:
            load_sae(name)
    with LocalHub() as closed:  # of the other one, a connection may still be open
        connect(monkeypatch, closed.endpoint, tmp_path / "hf")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", request.param == "offline")
    return request.param, names


@pytest.mark.filterwarnings(r"ignore:\s*This SAE has non-empty")
def test_without_a_network_what_is_in_the_cache_loads_and_nothing_else(gone: tuple[str, list[str]]):
    network, names = gone
    for name in names:
        assert far(name, expected()) < 1e-4
    for name in (
        "gpt2-small-res-jb:blocks.8.hook_resid_pre",  # of a repo that is in the cache
        "gpt2-small-mlp-tm:blocks.0.hook_mlp_out",  # of one that is not
        "someone/saes:deep/er",
        "gemma-scope-2b-pt-res:layer_0/width_16k/average_l0_105",  # which sae-lens converts
    ):
        line = refused(load_sae, name)
        assert f"{name} is not in the cache and " in line
        assert ("HF_HUB_OFFLINE is set; unset it to download" in line) == (network == "offline")
        assert ("the hub cannot be reached (ConnectError); connect once" in line) == (network == "unplugged")


@pytest.mark.filterwarnings(r"ignore:\s*This SAE has non-empty")
def test_what_sae_lens_asks_past_the_cache_is_said_when_offline(gone: tuple[str, list[str]]):
    if gone[0] == "offline":
        release = "gemma-scope-2-270m-pt-res"
        sae_id = next(iter(get_pretrained_saes_directory()[release].saes_map))
        assert "asks the hub for the shapes in it each time" in refused(load_sae, f"{release}:{sae_id}")


ENVIRONMENT = """
import sys
from interp.errors import UserError
from interp.saes.loading.sae import load_sae
for name in sys.argv[1:]:
    try:
        print(name, float(load_sae(name).W_dec.sum()))
    except UserError as error:
        print(error)
"""


@pytest.mark.slow
def test_the_environment_is_honoured(repos: Path, tmp_path: Path):
    """HF_ENDPOINT and HF_HOME, then HF_HUB_OFFLINE, each read by a process that starts with it."""
    names = ["someone/top:.", "someone/saes:deep/er"]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE_"))}
    outputs: list[str] = []
    with LocalHub() as hub:
        serve(hub, repos)
        for switch, asked in (({}, names[:1]), ({"HF_HUB_OFFLINE": "1"}, names)):
            done = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", ENVIRONMENT, *asked],
                env=inherited | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf")} | switch,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            outputs.append(done.stdout)
        assert len(hub.downloads()) == 2
    assert (tmp_path / "hf" / "hub" / "models--someone--top").is_dir()
    first, second = outputs[1].splitlines()
    assert outputs[0] == f"{names[0]} {float(WEIGHTS['W_dec'].sum())}\n" == first + "\n"
    assert f"{names[1]} is not in the cache and HF_HUB_OFFLINE is set" in second

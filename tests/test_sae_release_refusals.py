"""Names that are none, releases that are damaged, gated or pickles: each is refused by its line."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hub import LocalHub
from release_hub import (
    LM_SAE,
    connect,
    refused,
    serve,
    write_repos,
)
from sae_lens.loading import pretrained_sae_loaders as loaders
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

from interp.saes.loading import releases
from interp.saes.loading.sae import load_sae, load_transcoder


@pytest.fixture(scope="module")
def repos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repos(tmp_path_factory.mktemp("repos"))


@pytest.fixture
def hub(repos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """The hub is up, and the cache is empty."""
    with LocalHub() as hub:
        connect(monkeypatch, hub.endpoint, tmp_path / "hf")
        yield serve(hub, repos)


# --- refusals ---


@pytest.mark.parametrize(
    ("source", "line"),
    [
        (
            "gpt2-small-res-jp:blocks.8.hook_resid_pre",
            "unknown release 'gpt2-small-res-jp'; nearest: 'gpt2-small-res-jb'",
        ),
        (
            "gpt2-small-res-jb:blocks.8.hook_resid_per",
            "SAE id 'blocks.8.hook_resid_per'; nearest: 'blocks.8.hook_resid_pre'",
        ),
        ("gpt2-small-res-jb", "is a release of 13 SAEs; expected one of them, such as gpt2-small-res-jb:blocks.0"),
        ("gpt2-small-res-jb:", "no folder gpt2-small-res-jb:;"),
        ("no/such/folder", "or a name such as gpt2-small-res-jb:blocks.8.hook_resid_pre"),
        ("./gpt2:x", "no folder"),
        ("someone/saes:../../etc", "no folder someone/saes:../../etc"),
        ("someone/saes:/etc", "no folder someone/saes:/etc"),
    ],
)
def test_a_name_that_is_none_is_refused_and_the_hub_is_not_asked(hub: LocalHub, source: str, line: str):
    assert line in refused(load_sae, source)
    assert not hub.requests


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("nobody/nothing:x", "the hub has no repo nobody/nothing, or hides it; check the name, set HF_TOKEN"),
        ("gemma-scope-2b-pt-res:layer_0/width_16k/average_l0_105", "the hub has no repo google/gemma-scope-2b-pt-res"),
        ("someone/saes:deep/err", "unknown folder 'deep/err'; nearest: 'deep/er'"),
        ("someone/saes:deep", "unknown folder 'deep'"),
        (
            "sae_bench_pythia70m_sweep_topk_ctx128_0730:blocks.3.hook_resid_post__trainer_2",
            "canrager/lm_sae lacks a file of it",
        ),
        ("gpt2-small-res-jb:blocks.1.hook_resid_pre", "b_enc holds 64 numbers that are NaN"),
    ],
)
@pytest.mark.filterwarnings(r"ignore:\s*This SAE has non-empty")
def test_what_the_hub_has_not_whole_is_refused_in_one_line(hub: LocalHub, source: str, line: str):
    assert line in refused(load_sae, source)


def test_a_gated_repo_says_what_to_do(hub: LocalHub):
    hub.gated.add("someone/saes")
    hub.gated.add(LM_SAE)
    for name in (
        "someone/saes:deep/er",
        "sae_bench_pythia70m_sweep_topk_ctx128_0730:blocks.3.hook_resid_post__trainer_0",
    ):
        assert "is gated; accept its licence at http" in (line := refused(load_sae, name))
        assert "set HF_TOKEN" in line


def test_what_is_no_sae_of_one_site_is_refused_before_its_weights_are_fetched(hub: LocalHub, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "README.md").write_text("nothing")
    transcoder = "gemma-scope-2b-pt-transcoders:layer_0/width_16k/average_l0_76"
    heads = "gemma-scope-2b-pt-att:layer_0/width_16k/average_l0_104"
    for name in (transcoder, heads):
        hub.add(get_pretrained_saes_directory()[name.partition(":")[0]].repo_id, tmp_path / "empty")
    assert "is a jumprelu_transcoder; expected an SAE" in refused(load_sae, transcoder)
    assert "reads heads (hook_z)" in refused(load_sae, heads)
    assert "is a jumprelu; expected a transcoder" in refused(
        load_transcoder, "gemma-scope-2b-pt-att:layer_0/width_16k/average_l0_104"
    )
    assert not hub.downloads()


# --- pickles ---


def test_a_release_that_would_run_code_is_refused_and_does_not_run(hub: LocalHub, repos: Path):
    name = "sae_bench_pythia70m_sweep_topk_ctx128_0730:blocks.3.hook_resid_post__trainer_1"
    folder = "pythia70m_sweep_topk_ctx128_0730/resid_post_layer_3/trainer_1"
    for source in (name, f"{LM_SAE}:{folder}"):
        assert "it asks for posix.putenv, which is code; none of it ran" in refused(load_sae, source)
    set_in_a_child = [sys.executable, "-c", "import os; print(os.environ.get('INTERP_TEST_BOMB'))"]
    assert subprocess.run(set_in_a_child, capture_output=True, text=True, check=True).stdout == "None\n"
    torch.load(repos / LM_SAE / folder / "ae.pt", weights_only=False)
    try:
        live = subprocess.run(set_in_a_child, capture_output=True, text=True, check=True).stdout
        assert live == "1\n", "negative control: the bomb is live"
    finally:
        os.unsetenv("INTERP_TEST_BOMB")


def test_where_torch_is_told_to_run_pickles_their_releases_are_refused(hub: LocalHub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    name = "sae_bench_pythia70m_sweep_topk_ctx128_0730:blocks.3.hook_resid_post__trainer_1"
    assert "is a pickle, and TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set" in refused(load_sae, name)
    assert not hub.requests
    folder = "pythia70m_sweep_topk_ctx128_0730/resid_post_layer_3/trainer_1"
    assert "none of it ran" in refused(load_sae, f"{LM_SAE}:{folder}"), "our own reader does not listen to it"


def test_a_loader_that_nobody_has_read_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(releases, "READ", releases.READ - {"gemma_2"})
    name = "gemma-scope-2b-pt-res:layer_0/width_16k/average_l0_105"
    assert "a loader of sae-lens that was not checked for pickles (gemma_2)" in refused(load_sae, name)


def test_what_is_said_of_sae_lens_loaders_is_true():
    """Which unpickle is read off their source: a new version that changes it fails here."""
    sources = {name: inspect.getsource(loader) for name, loader in loaders.NAMED_PRETRAINED_SAE_LOADERS.items()}
    assert {name for name, source in sources.items() if "torch.load(" in source} == releases.UNPICKLE
    assert set(sources) == releases.READ | {releases.OWN_FORMAT}
    whole = inspect.getsource(loaders)
    assert not any(word in whole for word in ("weights_only", "allow_pickle", "import pickle", "yaml.load(", "joblib"))
    shapes = {name for name, get in loaders.NAMED_PRETRAINED_SAE_CONFIG_GETTERS.items() if _asks_for_shapes(get)}
    assert shapes == releases.ASK_ALWAYS


def _asks_for_shapes(get: Callable[..., Any]) -> bool:
    return "get_safetensors_tensor_shapes(" in inspect.getsource(get)


def test_no_release_is_called_like_a_repo():
    """Else a name could mean both."""
    assert not [release for release in get_pretrained_saes_directory() if {"/", ":"} & set(release)]


def test_every_listed_sae_is_understood_as_a_name():
    for release, lookup in get_pretrained_saes_directory().items():
        for sae_id in list(lookup.saes_map)[:2]:
            named = releases.find_named(f"{release}:{sae_id}")
            assert named is not None
            assert (named.repo, named.folder) == (lookup.repo_id, lookup.saes_map[sae_id])

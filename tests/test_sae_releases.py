"""SAEs by name, from a hub on 127.0.0.1: what comes, what is asked of the hub, and every refusal by its line.

huggingface_hub reads its environment when it is imported; here its constants are set instead, and one test has
processes of its own that set the environment.
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hub import LocalHub
from huggingface_hub import constants
from refusals import the_line
from sae_lens.loading import pretrained_sae_loaders as loaders
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
from safetensors.torch import save_file
from torch import Tensor
from word_sae import SITE, with_provenance

from interp.errors import UserError
from interp.model.model import Model
from interp.saes import releases
from interp.saes.load import load_sae, load_transcoder, site_of

NAME = "gpt2-small-res-jb:blocks.0.hook_resid_pre"
JB, V5, TM, LM_SAE = (
    "jbloom/GPT2-Small-SAEs-Reformatted",
    "jbloom/GPT2-Small-OAI-v5-32k-resid-post-SAEs",
    "tommmcgrath/gpt2-small-mlp-out-saes",
    "canrager/lm_sae",
)
D, F = 32, 64
CFG = {  # what the real ones hold that matters, and a part of the rest
    "model_name": "gpt2-small",
    "hook_point": "blocks.0.hook_resid_pre",
    "hook_point_layer": 0,
    "hook_point_head_index": None,
    "dataset_path": "Skylion007/openwebtext",
    "is_dataset_tokenized": False,
    "context_size": 128,
    "d_in": D,
    "d_sae": F,
    "device": "mps",
    "dtype": "torch.float32",
    "b_dec_init_method": "geometric_median",
    "expansion_factor": 2,
    "l1_coefficient": 8e-05,
    "lr": 0.0004,
    "lr_scheduler_name": None,
    "use_ghost_grads": False,
}


def _drawn(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


WEIGHTS = _drawn({"W_enc": (D, F), "b_enc": (F,), "W_dec": (F, D), "b_dec": (D,)})
X = _drawn({"x": (20, D)})["x"]


def _expected(w: dict[str, Tensor] = WEIGHTS, scale: float = 1.0) -> Tensor:
    """What a standard SAE makes of X, which its training multiplied by `scale`."""
    features = ((X * scale - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    return (features @ w["W_dec"] + w["b_dec"]) / scale


def _far(source: str | Path, expected: Tensor) -> float:
    sae = load_sae(source)
    with torch.no_grad():
        return float((sae.decode(sae.encode(X)) - expected).abs().max())


def _write(folder: Path, weights: dict[str, Tensor] = WEIGHTS, **cfg: Any) -> Path:
    folder.mkdir(parents=True)
    save_file(weights, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(CFG | cfg))
    return folder


@pytest.fixture(scope="module")
def repos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny repos in the layout of the real ones."""
    root = tmp_path_factory.mktemp("repos")
    ones = {"scaling_factor": torch.ones(D)}  # in the old files, and without effect
    _write(root / JB / "blocks.0.hook_resid_pre", WEIGHTS | ones)
    _write(root / JB / "blocks.1.hook_resid_pre", WEIGHTS | {"b_enc": WEIGHTS["b_enc"] * float("nan")})
    topk = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}, "normalize_activations": "layer_norm"}
    _write(root / V5 / "v5_32k_layer_0.pt", hook_point=None, hook_name="blocks.0.hook_resid_post", **topk)
    folder = get_pretrained_saes_directory()["gpt2-small-mlp-tm"].saes_map["blocks.0.hook_mlp_out"]
    _write(root / TM / folder, hook_point="blocks.0.hook_mlp_out", normalize_activations="expected_average_only_in")
    _write(root / "someone" / "saes" / "deep" / "er")
    _write(root / "someone" / "top")
    sparsify = root / "someone" / "saes" / "layers.0"
    sparsify.mkdir()
    (sparsify / "cfg.json").write_text(json.dumps({"d_in": D, "num_latents": F, "expansion_factor": 2, "k": F}))
    theirs = {"encoder.weight": WEIGHTS["W_enc"].T.contiguous(), "encoder.bias": WEIGHTS["b_enc"]}
    save_file(theirs | {name: WEIGHTS[name] for name in ("W_dec", "b_dec")}, sparsify / "sae.safetensors")
    (root / "someone" / "saes" / "config.json").write_text(json.dumps({"sae": {}, "model": "a/b"}))
    trainer = {"activation_dim": D, "dict_size": F, "layer": 3, "lm_name": "EleutherAI/pythia-70m", "k": F}
    for i, extra in enumerate([{}, {"k": Bomb()}]):
        one = root / LM_SAE / "pythia70m_sweep_topk_ctx128_0730" / "resid_post_layer_3" / f"trainer_{i}"
        one.mkdir(parents=True)
        settings = {"trainer": trainer | {"dict_class": "AutoEncoderTopK"}, "buffer": {"ctx_len": 128}}
        (one / "config.json").write_text(json.dumps(settings))
        dictionary = {**theirs, "decoder.weight": WEIGHTS["W_dec"].T.contiguous(), "b_dec": WEIGHTS["b_dec"]}
        torch.save(dictionary | extra, one / "ae.pt")
    return root


class Bomb:
    """A pickle that sets a variable in the environment where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.putenv, ("INTERP_TEST_BOMB", "1")


def _serve(hub: LocalHub, repos: Path) -> LocalHub:
    for owner in sorted(repos.iterdir()):
        for repo in sorted(owner.iterdir()):
            hub.add(f"{owner.name}/{repo.name}", repo)
    return hub


def _connect(monkeypatch: pytest.MonkeyPatch, endpoint: str, home: Path) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def hub(repos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """The hub is up, and the cache is empty."""
    with LocalHub() as hub:
        _connect(monkeypatch, hub.endpoint, tmp_path / "hf")
        yield _serve(hub, repos)


def _refused(load: Callable[[Any], object], source: str) -> str:
    with pytest.raises(UserError) as raised:
        load(source)
    assert len(str(raised.value)) < 400, "one line that a person reads"
    return the_line(raised)


# --- what comes ---


@pytest.mark.filterwarnings(r"ignore:\s*This SAE has non-empty")  # sae_lens says how to load it elsewhere
def test_a_release_is_downloaded_once_and_then_comes_from_the_cache(hub: LocalHub):
    assert _far(NAME, _expected()) < 1e-4
    asked = list(hub.requests)
    assert len(hub.downloads()) == 2, "its settings and its weights, nothing else of the repo"
    assert _far(NAME, _expected()) < 1e-4
    assert hub.requests == asked, "the second time the hub is asked nothing"
    wrong = WEIGHTS | {"b_dec": WEIGHTS["b_dec"] + 0.1}
    assert _far(NAME, _expected(wrong)) > 0.01, "negative control"


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
    assert _far("gpt2-small-mlp-tm:blocks.0.hook_mlp_out", _expected(scale=scale)) < 1e-4
    folder = get_pretrained_saes_directory()["gpt2-small-mlp-tm"].saes_map["blocks.0.hook_mlp_out"]
    assert "wants activations scaled" in _refused(load_sae, f"{TM}:{folder}"), "from the repo alone it is not known"


@pytest.mark.parametrize("source", ["someone/saes:deep/er", "someone/top:."])
def test_any_folder_of_any_repo_comes_by_its_name(hub: LocalHub, source: str):
    assert _far(source, _expected()) < 1e-4
    assert len(hub.downloads()) == 2


def test_a_sparsify_folder_of_a_repo_comes_with_what_its_run_says(hub: LocalHub):
    assert _far("someone/saes:layers.0", _expected()) < 1e-4
    metadata = load_sae("someone/saes:layers.0").cfg.metadata
    assert (metadata.hook_name, metadata.model_name) == ("blocks.0.hook_resid_post", "a/b")


def test_a_dictionary_of_a_repo_and_of_a_release_are_the_same(hub: LocalHub):
    assert _far("sae_bench_pythia70m_sweep_topk_ctx128_0730:blocks.3.hook_resid_post__trainer_0", _expected()) < 1e-4
    folder = "pythia70m_sweep_topk_ctx128_0730/resid_post_layer_3/trainer_0"
    assert _far(f"{LM_SAE}:{folder}", _expected()) < 1e-4
    assert site_of(load_sae(f"{LM_SAE}:{folder}")) == "blocks.3.hook_resid_post"


def test_a_path_that_exists_wins_over_a_name(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    zeros = {name: torch.zeros_like(tensor) for name, tensor in WEIGHTS.items()}
    _write(tmp_path / NAME, zeros)
    assert _far(NAME, torch.zeros_like(X)) == 0
    assert _far(Path(NAME), torch.zeros_like(X)) == 0
    assert not hub.requests


# --- on a model ---


def test_a_release_is_checked_against_the_model(hub: LocalHub, word_model: Model, capsys: pytest.CaptureFixture[str]):
    gpt2 = with_provenance(word_model, source="hub", name="gpt2")
    sae = load_sae("gpt2-small-resid-post-v5-32k:blocks.0.hook_resid_post", gpt2)
    assert site_of(sae) == SITE
    assert "made elsewhere; site and width fit; not checked: model weights" in capsys.readouterr().err
    pythia = with_provenance(word_model, source="hub", name="pythia-70m")
    line = _refused(lambda name: load_sae(name, pythia), "gpt2-small-resid-post-v5-32k:blocks.0.hook_resid_post")
    assert "was trained on 'gpt2-small', but the loaded model is 'pythia-70m'" in line


@pytest.mark.filterwarnings(r"ignore:\s*This SAE has non-empty")
def test_a_release_trained_on_centred_weights_is_refused_on_raw_ones(hub: LocalHub, word_model: Model):
    gpt2 = with_provenance(word_model, source="hub", name="gpt2")
    line = _refused(lambda name: load_sae(name, gpt2), NAME)
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
        _connect(monkeypatch, _serve(hub, repos).endpoint, tmp_path / "hf")
        for name in names:
            load_sae(name)
    with LocalHub() as closed:  # of the other one, a connection may still be open
        _connect(monkeypatch, closed.endpoint, tmp_path / "hf")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", request.param == "offline")
    return request.param, names


@pytest.mark.filterwarnings(r"ignore:\s*This SAE has non-empty")
def test_without_a_network_what_is_in_the_cache_loads_and_nothing_else(gone: tuple[str, list[str]]):
    network, names = gone
    for name in names:
        assert _far(name, _expected()) < 1e-4
    for name in (
        "gpt2-small-res-jb:blocks.8.hook_resid_pre",  # of a repo that is in the cache
        "gpt2-small-mlp-tm:blocks.0.hook_mlp_out",  # of one that is not
        "someone/saes:deep/er",
        "gemma-scope-2b-pt-res:layer_0/width_16k/average_l0_105",  # which sae-lens converts
    ):
        line = _refused(load_sae, name)
        assert f"{name} is not in the cache and " in line
        assert ("HF_HUB_OFFLINE is set; unset it to download" in line) == (network == "offline")
        assert ("the hub cannot be reached (ConnectError); connect once" in line) == (network == "unplugged")


@pytest.mark.filterwarnings(r"ignore:\s*This SAE has non-empty")
def test_what_sae_lens_asks_past_the_cache_is_said_when_offline(gone: tuple[str, list[str]]):
    if gone[0] == "offline":
        release = "gemma-scope-2-270m-pt-res"
        sae_id = next(iter(get_pretrained_saes_directory()[release].saes_map))
        assert "asks the hub for the shapes in it each time" in _refused(load_sae, f"{release}:{sae_id}")


ENVIRONMENT = """
import sys
from interp.errors import UserError
from interp.saes.load import load_sae
for name in sys.argv[1:]:
    try:
        print(name, float(load_sae(name).W_dec.sum()))
    except UserError as error:
        print(error)
"""


def test_the_environment_is_honoured(repos: Path, tmp_path: Path):
    """HF_ENDPOINT and HF_HOME, then HF_HUB_OFFLINE, each read by a process that starts with it."""
    names = ["someone/top:.", "someone/saes:deep/er"]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE_"))}
    outputs: list[str] = []
    with LocalHub() as hub:
        _serve(hub, repos)
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
    assert line in _refused(load_sae, source)
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
    assert line in _refused(load_sae, source)


def test_a_gated_repo_says_what_to_do(hub: LocalHub):
    hub.gated.add("someone/saes")
    hub.gated.add(LM_SAE)
    for name in (
        "someone/saes:deep/er",
        "sae_bench_pythia70m_sweep_topk_ctx128_0730:blocks.3.hook_resid_post__trainer_0",
    ):
        assert "is gated; accept its licence at http" in (line := _refused(load_sae, name))
        assert "set HF_TOKEN" in line


def test_what_is_no_sae_of_one_site_is_refused_before_its_weights_are_fetched(hub: LocalHub, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "README.md").write_text("nothing")
    transcoder = "gemma-scope-2b-pt-transcoders:layer_0/width_16k/average_l0_76"
    heads = "gemma-scope-2b-pt-att:layer_0/width_16k/average_l0_104"
    for name in (transcoder, heads):
        hub.add(get_pretrained_saes_directory()[name.partition(":")[0]].repo_id, tmp_path / "empty")
    assert "is a jumprelu_transcoder; expected an SAE" in _refused(load_sae, transcoder)
    assert "reads heads (hook_z)" in _refused(load_sae, heads)
    assert "is a jumprelu; expected a transcoder" in _refused(
        load_transcoder, "gemma-scope-2b-pt-att:layer_0/width_16k/average_l0_104"
    )
    assert not hub.downloads()


# --- pickles ---


def test_a_release_that_would_run_code_is_refused_and_does_not_run(hub: LocalHub, repos: Path):
    name = "sae_bench_pythia70m_sweep_topk_ctx128_0730:blocks.3.hook_resid_post__trainer_1"
    folder = "pythia70m_sweep_topk_ctx128_0730/resid_post_layer_3/trainer_1"
    for source in (name, f"{LM_SAE}:{folder}"):
        assert "it asks for posix.putenv, which is code; none of it ran" in _refused(load_sae, source)
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
    assert "is a pickle, and TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set" in _refused(load_sae, name)
    assert not hub.requests
    folder = "pythia70m_sweep_topk_ctx128_0730/resid_post_layer_3/trainer_1"
    assert "none of it ran" in _refused(load_sae, f"{LM_SAE}:{folder}"), "our own reader does not listen to it"


def test_a_loader_that_nobody_has_read_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(releases, "READ", releases.READ - {"gemma_2"})
    name = "gemma-scope-2b-pt-res:layer_0/width_16k/average_l0_105"
    assert "a loader of sae-lens that was not checked for pickles (gemma_2)" in _refused(load_sae, name)


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

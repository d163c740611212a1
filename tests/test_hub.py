"""Models by name: downloaded from a hub on 127.0.0.1, then loaded again without it.

Each load runs in a process of its own, because huggingface_hub reads HF_ENDPOINT and HF_HUB_OFFLINE when it is
imported. It loads every name at once, under three networks: `online`, the hub is there; `offline`, HF_HUB_OFFLINE is
set; `unplugged`, nothing is set and the hub does not answer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hub import LocalHub, Request, tiny_gpt2
from refusals import the_line

from interp.errors import UserError
from interp.model.loading import hub as hub_cache
from interp.model.loading.hub import refuse_disk_error

NAMES = ["gpt2", "other-seed", "no-such-model"]
PROMPT = "The capital of France is"

# Loads each name and says what came: an error's type and text, or how far it is from the checkpoint in the folder.
PLAIN = """
import json, sys
from pathlib import Path
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, prompt, *names = sys.argv[1:]
weights = load_file(Path(folder) / "model.safetensors")
tokens = json.loads((Path(folder) / "vocab.json").read_text())
for name in names:
    try:
        state = AutoModelForCausalLM.from_pretrained(name).state_dict()
        ids = AutoTokenizer.from_pretrained(name)(prompt).input_ids
    except Exception as error:
        print(json.dumps({"error": type(error).__name__, "text": str(error)}))
        continue
    far = max((state[key] - value).abs().max().item() for key, value in weights.items())
    spelt = "".join(dict(zip(tokens.values(), tokens))[i] for i in ids).replace("\\u0120", " ")
    print(json.dumps({"far": far, "spelt": spelt}))
"""

OURS = """
import json, sys
import interp

folder, prompt, *names = sys.argv[1:]
reference = interp.load_model(folder).logits([prompt])
for name in names:
    try:
        logits = interp.load_model(name).logits([prompt])
    except interp.UserError as error:
        print(json.dumps({"error": "UserError", "text": str(error)}))
        continue
    print(json.dumps({"far": (logits - reference).abs().max().item()}))
"""


Results = dict[str, dict[str, Any]]  # per name: what the script printed
NETWORKS = {"offline": {"HF_HUB_OFFLINE": "1"}, "unplugged": {}}


@dataclass(frozen=True)
class Loads:
    """What `PLAIN` or `OURS` printed under each network, and what the hub was asked for."""

    under: dict[str, Results]
    requests: list[Request]
    downloads: list[str]


def load(script: str, checkpoint: Path, home: Path, **environment: str) -> Results:
    """Run `script` with caches of its own under `home`."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE_", "TRANSFORMERS_"))}
    caches = {"HF_HOME": str(home / "hf"), "INTERP_CACHE": str(home / "interp"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(checkpoint), PROMPT, *NAMES],
        env=inherited | caches | environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return dict(zip(NAMES, map(json.loads, lines), strict=True))


def load_again(script: str, served: dict[str, Path], moved: dict[str, str], home: Path, *later: str) -> Loads:
    """Load every name with the hub up, then with the hub gone, under each of the `later` networks."""
    with LocalHub() as hub:
        for name, folder in served.items():
            hub.add(name, folder, moved.get(name))
        reference = next(iter(served.values()))
        under = {"online": load(script, reference, home, HF_ENDPOINT=hub.endpoint)}
        requests, downloads = list(hub.requests), hub.downloads()
    for network in later:
        under[network] = load(script, reference, home, HF_ENDPOINT=hub.endpoint, **NETWORKS[network])
    return Loads(under, requests, downloads)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    return tiny_gpt2(root / "gpt2"), tiny_gpt2(root / "other", seed=1)


@pytest.fixture(scope="module")
def plain(checkpoints: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Loads:
    """Transformers alone: shows that the hub is a hub. (Unplugged, it looks for an unknown name for a minute.)"""
    home = tmp_path_factory.mktemp("plain")
    served = {"openai-community/gpt2": checkpoints[0], "other-seed": checkpoints[1]}
    return load_again(PLAIN, served, {"openai-community/gpt2": "gpt2"}, home, "offline")


@pytest.fixture(scope="module")
def ours(checkpoints: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Loads:
    """`interp.load_model`."""
    served = {"gpt2": checkpoints[0], "other-seed": checkpoints[1]}
    return load_again(OURS, served, {}, tmp_path_factory.mktemp("ours"), "offline", "unplugged")


@pytest.fixture(params=["ours", pytest.param("plain", marks=pytest.mark.slow)])
def both(request: pytest.FixtureRequest) -> Loads:
    return request.getfixturevalue(request.param)


@pytest.mark.slow
def test_transformers_downloads_exactly_the_served_weights_and_tokenizer(plain: Loads):
    assert plain.under["online"]["gpt2"] == {"far": 0.0, "spelt": PROMPT}
    assert any(request.status == 307 for request in plain.requests), "gpt2 was redirected to its new home"


@pytest.mark.slow
def test_transformers_loads_the_same_from_the_cache_when_the_hub_is_gone(plain: Loads):
    assert plain.under["offline"]["gpt2"] == plain.under["online"]["gpt2"]


@pytest.mark.slow
def test_transformers_refuses_a_repo_that_the_hub_does_not_have(plain: Loads):
    text = plain.under["online"]["no-such-model"]["text"]
    assert "no-such-model is not a local folder and is not a valid model identifier" in text


def test_another_checkpoint_is_told_apart(both: Loads):
    """Negative control: the comparisons here can fail."""
    assert both.under["online"]["other-seed"]["far"] > 0.01


def test_the_weights_of_each_repo_are_fetched_once(both: Loads):
    assert len([path for path in both.downloads if "/cdn/" in path]) == 2
    assert len(both.downloads) == len(set(both.downloads))


@pytest.mark.parametrize("network", ["online", "offline", "unplugged"])
def test_load_model_gives_the_served_model(ours: Loads, network: str):
    assert ours.under[network]["gpt2"]["far"] < 1e-4


@pytest.mark.parametrize("network", ["online", "offline", "unplugged"])
def test_load_model_refuses_an_unknown_name_in_one_line(ours: Loads, network: str):
    refusal = ours.under[network]["no-such-model"]
    assert refusal["error"] == "UserError"
    assert "no-such-model" in refusal["text"]
    assert "\n" not in refusal["text"]
    assert len(refusal["text"]) < 400, "one line that a person reads, not a pasted traceback"


def test_load_model_blames_the_offline_switch_only_when_it_is_set(ours: Loads):
    blames = {network: "HF_HUB_OFFLINE" in names["no-such-model"]["text"] for network, names in ours.under.items()}
    assert blames == {"online": False, "offline": True, "unplugged": False}


def test_the_hub_lists_what_it_serves(checkpoints: tuple[Path, Path]):
    script = """
import json
from huggingface_hub import HfApi
api = HfApi()
print(json.dumps([api.list_repo_files("a/b"), {f.path: f.size for f in api.list_repo_tree("a/b", revision="main")}]))
"""
    with LocalHub() as hub:
        hub.add("a/b", checkpoints[0])
        environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0"}
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
        )
    sizes = {path.name: path.stat().st_size for path in checkpoints[0].iterdir()}
    assert json.loads(done.stdout) == [sorted(sizes), sizes], done.stderr


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/no-such/repo/resolve/main/config.json", 401, "RepoNotFound"),
        ("/a/b/resolve/main/no-such-file", 404, "EntryNotFound"),
        ("/a/b/resolve/no-such-branch/vocab.json", 404, "RevisionNotFound"),
        ("/api/models/a/b/tree/main/no-such-folder", 404, "EntryNotFound"),
        ("/nonsense", 404, "NotFound"),
    ],
)
def test_the_hub_refuses_as_the_real_one_does(tmp_path: Path, path: str, status: int, code: str):
    (tmp_path / "vocab.json").write_text("{}")
    with LocalHub() as hub:
        hub.add("a/b", tmp_path)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(hub.endpoint + path)
        assert (refused.value.code, refused.value.headers["X-Error-Code"]) == (status, code)
        assert hub.requests == [Request("GET", path, status)]


# --- the cache on this disk ---


@pytest.mark.parametrize("place", ["home", "hub", "above"])
def test_a_file_in_the_caches_place_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str):
    """HF_HOME that is a file, holds a file called hub, or lies under a file."""
    home, file = home_with_a_file(tmp_path, place)
    monkeypatch.setattr(hub_cache.constants, "HF_HUB_CACHE", str(home / "hub"))
    with pytest.raises(UserError) as refused:
        hub_cache.check_hub_cache()
    assert f"{file} is a file, and the Hugging Face cache should be the folder {home / 'hub'}" in the_line(refused)
    file.unlink()
    hub_cache.check_hub_cache()  # a folder that can be made


def home_with_a_file(folder: Path, place: str) -> tuple[Path, Path]:
    """HF_HOME, and the file that is in its way."""
    file = folder / "file"
    if place == "hub":
        file.mkdir()
        file = file / "hub"
    file.write_text("")
    return {"home": file, "hub": file.parent, "above": file / "deep" / "er"}[place], file


def test_no_way_to_load_blames_the_hub_for_a_file_in_the_caches_place(tmp_path: Path, checkpoints: tuple[Path, Path]):
    """A model, an SAE and a release of SAEs, in a process that finds HF_HOME so when it begins."""
    home, file = home_with_a_file(tmp_path, "home")
    script = """
import sys
import interp
from interp.saes.loading.sae import load_sae

for load, name in ((interp.load_model, "gpt2"), (load_sae, "someone/saes:deep"), (load_sae, sys.argv[1])):
    try:
        load(name)
    except interp.UserError as error:
        print(error)
"""
    with LocalHub() as hub:
        hub.add("gpt2", checkpoints[0])
        environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
        environment.pop("HF_HUB_CACHE", None)
        release = "gemma-scope-2b-pt-res:layer_0/width_16k/average_l0_105"
        done = subprocess.run(
            [sys.executable, "-c", script, release], env=environment, capture_output=True, text=True, check=False
        )
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stderr
    for line in lines:
        assert f"{file} is a file, and the Hugging Face cache should be the folder {home / 'hub'}" in line
        assert "set HF_HOME" in line
        assert "cannot be reached" not in line
    assert not hub.requests


@pytest.mark.parametrize(
    ("cause", "named"),
    [
        (PermissionError(13, "Permission denied", "/hf/hub"), "cannot be written (Permission denied: /hf/hub)"),
        (OSError(28, "No space left on device"), "cannot be written (No space left on device: no file named)"),
        (NotADirectoryError(20, "Not a directory", "/hf"), "cannot be written (Not a directory: /hf)"),
        (ConnectionRefusedError(111, "Connection refused"), None),
        (OSError("no network"), None),
        (TimeoutError(110, "timed out"), None),
    ],
)
def test_what_the_disk_refuses_is_told_apart_from_the_network(cause: OSError, named: str | None):
    """Also where the hub's client wraps it in an error of its own."""
    wrapped = RuntimeError("an error happened while trying to locate the file on the hub")
    wrapped.__cause__ = cause
    for error in (cause, wrapped):
        if named is None:
            refuse_disk_error("gpt2", error)
            continue
        with pytest.raises(UserError) as raised:
            refuse_disk_error("gpt2", error)
        assert named in str(raised.value)

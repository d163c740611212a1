"""Models for the whole session. Torch is imported when a fixture asks for it: most tests need none."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hub import tiny_gpt2 as write_tiny_gpt2
from hypothesis import settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from stores import Captured

    from interp import Model
    from interp.activations.rows import Rows
    from interp.activations.store import Store

if cards := os.environ.get("INTERP_PRETEND_GPUS"):  # `make test-pretend`: before anything of the product is imported
    import pretend_gpu

    pretend_gpu.install(int(cards))

# Torch's threads spin while they wait: on cores that other processes share, two are slower than one. Subprocesses too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A deadline per example is a clock's word on a machine that runs other tests beside it.
settings.register_profile("busy machine", deadline=None)
settings.load_profile("busy machine")


@pytest.fixture(scope="session")
def smol() -> Model:
    """The bundled model."""
    from interp import load_model

    return load_model("smollm2-135m", "cpu")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests that look at pages."""
    from explorer_browser import started

    with started() as there:
        yield there


@pytest.fixture(autouse=True)
def cards_for_the_tests_of_them(request: pytest.FixtureRequest) -> None:
    """A test that needs a pretended GPU fails without one: it would pass on the CPU and prove nothing."""
    if request.node.get_closest_marker("pretend") and not cards:
        pytest.fail("no GPU is pretended here: run these with `make test-pretend`")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a GPT-2 of two layers with a byte-level tokenizer of its own. Leave it as it is."""
    return write_tiny_gpt2(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="session")
def tiny_gpt2(tiny_folder: Path) -> Model:
    """The model in it."""
    from interp import load_model

    return load_model(tiny_folder, "cpu")


@pytest.fixture(scope="session")
def make_tiny(tiny_gpt2: Model) -> Callable[..., Model]:
    """`make_tiny(architecture, seed=0)`: a new tiny model in memory, with `tiny_gpt2`'s tokenizer."""

    def make(architecture: str, seed: int = 0) -> Model:
        from tiny import tiny_hf

        from interp import Model

        hf = tiny_hf(architecture, len(tiny_gpt2.tokenizer), seed)
        return Model(hf, tiny_gpt2.tokenizer, replace(tiny_gpt2.provenance, architecture=type(hf).__name__))

    return make


@pytest.fixture(scope="session")
def tiny_llama(make_tiny: Callable[..., Model]) -> Model:
    """A Llama of two layers with grouped-query attention."""
    return make_tiny("llama")


@pytest.fixture(scope="session")
def tiny_of(make_tiny: Callable[..., Model]) -> Callable[[str], Model]:
    """`tiny_of(architecture)`: one tiny model of each, shared by the session. Leave its weights alone."""
    made: dict[str, Model] = {}

    def get(architecture: str) -> Model:
        if architecture not in made:
            made[architecture] = make_tiny(architecture)
        return made[architecture]

    return get


@pytest.fixture(scope="session")
def passes_parity(make_tiny: Callable[..., Model]) -> Callable[[str], bool]:
    """`passes_parity(architecture)`: does a new tiny model, before anything is planted? Each is asked once."""
    from interp.model.checking.parity import PROMPTS, check_parity

    return cache(lambda architecture: check_parity(make_tiny(architecture), PROMPTS[1:2]).ok)


@pytest.fixture(scope="session")
def weights_kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `trained_once` keeps weights; the processes of one run share it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    (folder / "weights").mkdir(exist_ok=True)
    return folder / "weights"


@pytest.fixture(scope="module")
def trained_once(weights_kept: Path) -> Iterator[None]:
    """The same text, settings and seed give the same small GPT-2: who trained it once takes the weights from then."""
    import torch

    from interp.model.training import small

    train = small._train

    def or_take(hf: Any, ids: Any, labels: Any, settings: Any, seed: int, progress: Any) -> None:
        told = hashlib.sha256(repr((settings, seed, ids.tolist(), labels.tolist(), len(hf.lm_head.weight))).encode())
        file = weights_kept / told.hexdigest()
        if file.exists():
            hf.load_state_dict(torch.load(file))
            return
        train(hf, ids, labels, settings, seed, progress)
        begun = file.with_name(f"{file.name}.{os.getpid()}.{threading.get_ident()}")
        torch.save(hf.state_dict(), begun)
        begun.replace(file)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(small, "_train", or_take)
        yield


@pytest.fixture(scope="session")
def word_model() -> Model:
    """A small GPT-2 trained on the sentences of `word_sae`."""
    from word_sae import SENTENCES, SIZE

    from interp.model.training.small import train_small_gpt2

    return train_small_gpt2(SENTENCES, SIZE)


@pytest.fixture(scope="session")
def word_rows(word_model: Model) -> Rows:
    """Its activations on every second sentence."""
    from word_sae import SENTENCES, SITE

    from interp.activations.rows import capture_rows

    return capture_rows(word_model, SENTENCES[::2], SITE)


@pytest.fixture(scope="session")
def word_sae(word_model: Model, word_rows: Rows, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an SAE trained on them. Leave it as it is."""
    from word_sae import PLAN, TRAINING

    from interp.saes.training.sources import MemoryRows
    from interp.saes.training.trainer import train

    folder = tmp_path_factory.mktemp("saes") / "sae"
    train(PLAN, MemoryRows(word_rows, word_model), folder, TRAINING)
    return folder


@pytest.fixture
def sae_copy(word_sae: Path, tmp_path: Path) -> Path:
    """A copy of it to damage, without the manifest, so that each check is met on its own."""
    from interp.model.loading.cache import MANIFEST

    shutil.copytree(word_sae, tmp_path / "sae")
    (tmp_path / "sae" / MANIFEST).unlink()
    return tmp_path / "sae"


@pytest.fixture(scope="session")
def whole_store(tiny_gpt2: Model, tmp_path_factory: pytest.TempPathFactory) -> Captured:
    """A store of several shards, with its plan and tokens; never to be changed."""
    from stores import captured

    return captured(tiny_gpt2, tmp_path_factory.mktemp("store") / "whole")


@pytest.fixture
def store_copy(whole_store: Captured, tmp_path: Path) -> Store:
    """A copy of it, to be damaged."""
    from interp.activations.store import open_store

    shutil.copytree(whole_store[0].folder, tmp_path / "copy")
    return open_store(tmp_path / "copy")


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """An empty cache; the bundled model, where the test wants it too, comes from the usual one."""
    request.getfixturevalue("smol") if "smol" in request.fixturenames else None
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def gguf_file(tmp_path_factory: pytest.TempPathFactory, tiny_gpt2: Model) -> Path:
    """A Llama of two layers as a GGUF file, with `tiny_gpt2`'s tokenizer."""
    from tiny import tiny_hf, write_gguf

    hf = tiny_hf("llama", len(tiny_gpt2.tokenizer))
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", hf, tiny_gpt2.tokenizer)


@pytest.fixture
def as_sparsify(word_sae: Path, tmp_path: Path) -> Path:
    """The trained SAE of the words as sparsify would have written it."""
    from foreign_saes import write_sparsify
    from safetensors.torch import load_file

    w = load_file(word_sae / "sae_weights.safetensors")
    tensors = {"encoder.weight": w["W_enc"].T.contiguous(), "encoder.bias": w["b_enc"]}
    tensors |= {name: w[name] for name in ("W_dec", "b_dec")}
    return write_sparsify(tmp_path / "run" / "h.0", tensors, d_in=32, num_latents=64, k=4)

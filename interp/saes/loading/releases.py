"""Sparse autoencoders by name, from the Hugging Face hub: those of sae-lens' list, and any folder of any repo.

`RELEASE:SAE_ID`, such as `gpt2-small-res-jb:blocks.8.hook_resid_pre`, is one of the list; `OWNER/NAME:FOLDER` is a
folder of a repo, `.` its top. No release has a slash in its name, so the two cannot be mistaken. HF_HOME, HF_ENDPOINT,
HF_TOKEN and HF_HUB_OFFLINE are honoured; a folder that is in the cache is used without asking the network.

Most releases are in formats of their own, which sae-lens converts. What was found in sae-lens 6.54: five of its fifteen
loaders unpickle a .pt file with `torch.load(path)`. Torch then restricts itself to tensors (`weights_only`, its default
since 2.6), unless TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set: then those are refused. The others read safetensors, or npz
with numpy's `allow_pickle=False`. A loader that sae-lens adds later has not been read, and is refused until it is.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from sae_lens import SAE
from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME, SPARSIFY_WEIGHTS_FILENAME
from sae_lens.loading.pretrained_sae_loaders import get_conversion_loader_name, load_sae_config_from_huggingface
from sae_lens.loading.pretrained_saes_directory import (
    get_config_overrides,
    get_norm_scaling_factor,
    get_pretrained_saes_directory,
    get_repo_id_and_folder_name,
)

from interp.errors import UserError, unknown
from interp.model.loading.hub import check_hub_cache, refuse_disk_error
from interp.model.loading.quiet import first_line
from interp.saes.loading.dictionary_learning import DICTIONARY_CFG, DICTIONARY_WEIGHTS, unpickling_error

EXAMPLE = "gpt2-small-res-jb:blocks.8.hook_resid_pre"
NAME = re.compile(r"(?P<home>\w[\w.-]*(?:/[\w.-]+)?):(?P<inside>(?!/|.*\.\.).+)")
OWN_FORMAT = "sae_lens"  # sae-lens' name for the loader of its own format
UNPICKLE = {"connor_rob_hook_z", "deepseek_r1", "dictionary_learning_1", "goodfire", "qwen_scope"}
READ = UNPICKLE | {
    "gemma_2",
    "gemma_2_transcoder",
    "gemma_3",
    "llama_scope",
    "llama_scope_r1_distill",
    "mntss_clt_layer_transcoder",
    "mwhanna_transcoder",
    "sparsify",
    "temporal",
}
UNSAFE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
ASK_ALWAYS = {"gemma_3", "mntss_clt_layer_transcoder"}  # for a part of a file, past the hub's client and its cache
WHOLE = (  # the files of an SAE in each format that is read from a folder
    (SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME),
    (SAE_CFG_FILENAME, SPARSIFY_WEIGHTS_FILENAME),
    (DICTIONARY_CFG, DICTIONARY_WEIGHTS),
)


@dataclass(frozen=True)
class Named:
    """An SAE by name: where the hub keeps it, how it is read, and what sae-lens knows of it beside its files."""

    name: str
    repo: str
    folder: str
    loader: str = OWN_FORMAT
    overrides: Mapping[str, Any] = field(default_factory=dict)  # of keys in its cfg.json
    scaling: float | None = None  # of activations, to be folded into the weights


def find_named(source: Path | str) -> Named | None:
    """The SAE that `source` names; None for a path. A path that exists wins over a name.

    Raises UserError for a release or an id that sae-lens does not list.
    """
    text = str(source)
    if Path(source).exists():
        return None
    if (match := NAME.fullmatch(text)) is None:
        if re.fullmatch(r"\w[\w.-]*", text) and text in (releases := get_pretrained_saes_directory()):
            ids = list(releases[text].saes_map)
            raise UserError(f"{text} is a release of {len(ids)} SAEs; expected one of them, such as {text}:{ids[0]}")
        return None
    home, inside = match["home"], match["inside"]
    if "/" in home:
        return Named(text, home, str(PurePosixPath(inside)))
    releases = get_pretrained_saes_directory()
    if home not in releases:
        raise unknown(
            "release", home, releases, f"expected one of sae-lens' list, as in {EXAMPLE}, or OWNER/NAME:FOLDER"
        )
    if inside not in (ids := releases[home].saes_map):
        raise unknown("SAE id", inside, ids, f"expected one of the {len(ids)} in release {home}")
    overrides = {**get_config_overrides(home, inside), "dtype": "float32"}  # as SAE.from_pretrained
    repo, folder = get_repo_id_and_folder_name(home, inside)
    return Named(text, repo, folder, _loader_of(text, home), overrides, get_norm_scaling_factor(home, inside))


def _loader_of(name: str, release: str) -> str:
    loader = get_conversion_loader_name(release)
    if loader not in READ | {OWN_FORMAT}:
        raise UserError(
            f"{name} is read by a loader of sae-lens that was not checked for pickles ({loader}); "
            "convert it with sae-lens, save it, and give the folder"
        )
    if loader in UNPICKLE and os.environ.get(UNSAFE, "0").lower() not in {"", "0", "n", "no", "false"}:
        raise UserError(
            f"{name} is a pickle, and {UNSAFE} is set, which lets a pickle run code; unset it and try again"
        )
    return loader


def fetch_folder(named: Named) -> Path:
    """The folder with the SAE's files, from the cache when they are there, else downloaded once."""
    inside = PurePosixPath(named.folder)
    paths = [str(inside / file) for file in sorted({file for pair in WHOLE for file in pair})]
    if (cached := _find_cached(named, paths)) is not None:
        return cached
    with _told_in_one_line(named):
        info = HfApi().model_info(named.repo, timeout=10, files_metadata=True)
        files = {s.rfilename: s.size or 0 for s in info.siblings or []}
        if not any({str(inside / file) for file in pair} <= set(files) for pair in WHOLE):
            tops = sorted({str(PurePosixPath(f).parent) for f in files if f.endswith(tuple(w for _, w in WHOLE))})
            raise unknown("folder", named.folder, tops, f"expected one with an SAE, in {named.repo} on the hub")
        if str(inside / SPARSIFY_WEIGHTS_FILENAME) in files:
            paths += [str(above / "config.json") for above in inside.parents]  # of the run that wrote it
        wanted = [path for path in paths if path in files]
        print(f"{named.name}: downloading {sum(files[p] for p in wanted) / 1e6:.0f} MB (once)", file=sys.stderr)
        return Path(snapshot_download(named.repo, allow_patterns=wanted)) / inside


def _find_cached(named: Named, paths: list[str]) -> Path | None:
    try:
        top = Path(snapshot_download(named.repo, allow_patterns=paths, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError, ValueError):
        return None
    folder = top / named.folder
    return folder if any(all((folder / file).is_file() for file in pair) for pair in WHOLE) else None


def read_settings(named: Named) -> dict[str, Any]:
    """What sae-lens knows of an SAE in a format of its own, before any weight is fetched."""
    release, _, sae_id = named.name.partition(":")
    with _told_in_one_line(named), _converting(named):
        _ask_once(named)
        return load_sae_config_from_huggingface(release, sae_id)


def convert_release(named: Named, device: str) -> SAE[Any]:
    """The SAE of a release in a format of its own, as sae-lens converts it. The hub is asked each time."""
    release, _, sae_id = named.name.partition(":")
    with _told_in_one_line(named), _converting(named):
        return SAE.from_pretrained(release, sae_id, device=device)


def _ask_once(named: Named) -> None:
    """One short question: the hub's client tries a dead connection for half a minute before it gives up a file."""
    if constants.HF_HUB_OFFLINE:
        if named.loader in ASK_ALWAYS:
            raise UserError(
                f"{named.name}: sae-lens asks the hub for the shapes in it each time, and HF_HUB_OFFLINE is set; "
                "unset it, or save the SAE and give the folder"
            )
        return
    try:
        HfApi().model_info(named.repo, timeout=10)
    except Exception as error:
        kept = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=named.repo, repo_type="model")
        if not _of_the_network(error) or not kept.is_dir():
            raise


@contextmanager
def _converting(named: Named) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if isinstance(error, (UserError, OSError, EntryNotFoundError, HFValidationError)) or _of_the_network(error):
            raise
        raise UserError(
            f"{named.name}: sae-lens cannot read {named.folder} of {named.repo} ({type(error).__name__}: "
            f"{unpickling_error(error)}); fetch it again, or use another SAE"
        ) from error


@contextmanager
def _told_in_one_line(named: Named) -> Iterator[None]:
    """Turn what the hub refuses into one line."""
    repo = named.repo
    check_hub_cache()
    try:
        yield
    except GatedRepoError as error:
        raise UserError(
            f"{named.name}: {repo} is gated; accept its licence at {constants.ENDPOINT}/{repo} and set HF_TOKEN"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(
            f"{named.name}: the hub has no repo {repo}, or hides it; check the name, set HF_TOKEN, or give a folder"
        ) from error
    except Exception as error:
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            raise UserError(
                f"{named.name}: {repo} lacks a file of it ({first_line(error)}); expected what sae-lens "
                "lists; update sae-lens, or use another SAE"
            ) from error
        if not isinstance(error, (OSError, EntryNotFoundError)) and not _of_the_network(error):
            raise
        refuse_disk_error(named.name, error)
        if constants.HF_HUB_OFFLINE:
            raise UserError(
                f"{named.name} is not in the cache and HF_HUB_OFFLINE is set; unset it to download, or give a folder"
            ) from error
        raise UserError(
            f"{named.name} is not in the cache and the hub cannot be reached ({type(error).__name__}); "
            "connect once, or give a folder"
        ) from error


def _of_the_network(error: Exception) -> bool:
    """Is it of the hub client's HTTP library, which raises a family of its own?"""
    return type(error).__module__.startswith(("httpx", "httpcore", "requests"))

"""A model by its Hugging Face name: from the cache when it is there, else downloaded once.

HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE are honoured. The hub client retries a dead connection for half a
minute; one question with a short timeout comes first, so that a machine without a network hears so at once.
"""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from interp.errors import UserError

SMALL_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]


# What this machine's disk refuses: a file in a folder's place, no permission, full, read-only …
OF_THE_DISK = {
    getattr(errno, name)
    for name in ("ENOTDIR", "EEXIST", "EISDIR", "EACCES", "EPERM", "ENOSPC", "EDQUOT", "EROFS", "ENAMETOOLONG", "EIO")
    if hasattr(errno, name)
}


def check_hub_cache() -> None:
    """Raise UserError where a file is in the Hugging Face cache's place: else it looks as if the hub did not answer."""
    folder = Path(constants.HF_HUB_CACHE).absolute()
    above = next(p for p in (folder, *folder.parents) if p.exists())
    if not above.is_dir():
        raise UserError(
            f"{above} is a file, and the Hugging Face cache should be the folder {folder}; expected a folder there; "
            "set HF_HOME (or HF_HUB_CACHE) to one, or unset it"
        )


def refuse_disk_error(name: str, error: BaseException) -> None:
    """Raise UserError where `error`, or what it came from, is this machine's disk and not the network."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in OF_THE_DISK:
            raise UserError(
                f"{name}: the Hugging Face cache {constants.HF_HUB_CACHE} cannot be written ({cause.strerror}: "
                f"{cause.filename or 'no file named'}); fix that, or set HF_HOME to another folder"
            ) from error
        cause = cause.__cause__ or cause.__context__


def fetch_from_hub(repo: str, revision: str | None) -> tuple[Path, str]:
    """Folder and commit of a hub model; a whole copy in the cache is used without asking the network.

    Raises UserError for an unknown, gated or unreachable model.
    """
    if (cached := find_cached(repo, revision)) is not None:
        return cached, cached.name
    check_hub_cache()
    try:
        info = HfApi().model_info(repo, revision=revision, timeout=10, files_metadata=True)
        files = {s.rfilename: s.size or 0 for s in info.siblings or []}
        weights = "*.safetensors" if any(f.endswith(".safetensors") for f in files) else "*.bin"
        size = sum(n for f, n in files.items() if f.endswith(weights[1:]))
        print(f"{repo}: downloading {size / 1e6:.0f} MB (once)", file=sys.stderr)
        # by the name asked for, not by its commit: only so does the cache learn what that name points to
        folder = snapshot_download(repo, revision=revision, allow_patterns=[*SMALL_FILES, weights])
    except GatedRepoError as error:
        raise UserError(f"{repo} is gated; accept its licence on the hub and set HF_TOKEN") from error
    except RevisionNotFoundError as error:
        raise UserError(f"{repo} has no revision {revision!r} on the hub; check the name after @") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(
            f"unknown model {repo!r}: the hub has none of that name; "
            "run `interp models` for what can be loaded, or give a folder or a .gguf file"
        ) from error
    except OfflineModeIsEnabled as error:
        raise UserError(
            f"{repo} is not in the cache and HF_HUB_OFFLINE is set; unset it to download, "
            "or use the bundled model: smollm2-135m"
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, RuntimeError) as error:
        refuse_disk_error(repo, error)
        raise UserError(
            f"{repo} is not in the cache and the hub cannot be reached ({type(error).__name__}); "
            "connect once, or use a folder, a .gguf file or the bundled model: smollm2-135m"
        ) from error
    except Exception as error:  # the client's HTTP library (httpx) raises a family of its own
        if not type(error).__module__.startswith(("httpx", "httpcore", "requests")):
            raise
        raise UserError(
            f"{repo} is not in the cache and the hub cannot be reached ({type(error).__name__}); "
            "connect once, or use a folder, a .gguf file or the bundled model: smollm2-135m"
        ) from error
    return Path(folder), Path(folder).name


def find_cached(repo: str, revision: str | None) -> Path | None:
    """The snapshot folder of a model that is wholly in the cache, else None."""
    try:
        folder = Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError, ValueError):
        return None
    return folder if is_whole(folder) else None


def is_whole(folder: Path) -> bool:
    """Are config, tokenizer and every weight file there? A download cut short leaves a folder that lacks some."""
    if not (folder / "config.json").is_file():
        return False
    if not any((folder / f).is_file() for f in ("tokenizer.json", "vocab.json", "tokenizer.model", "spiece.model")):
        return False
    for index in folder.glob("*.index.json"):
        shards = set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values())
        if shards and all((folder / shard).is_file() for shard in shards):
            return True
    return any((folder / f).is_file() for f in ("model.safetensors", "pytorch_model.bin"))

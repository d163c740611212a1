"""A model by its Hugging Face name: from the cache when it is there, else downloaded once.

HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE are honoured. The hub client retries a dead connection for half a
minute; one question with a short timeout comes first, so that a machine without a network hears so at once.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
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


def fetch_from_hub(repo: str, revision: str | None) -> tuple[Path, str]:
    """Folder and commit of a hub model; a whole copy in the cache is used without asking the network.

    Raises UserError for an unknown, gated or unreachable model.
    """
    if (cached := find_cached(repo, revision)) is not None:
        return cached, cached.name
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

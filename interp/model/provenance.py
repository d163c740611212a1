"""Where a number comes from: which weights, which tokenizer, which libraries, which numerics."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from interp.model.hooks.bridge import NUMERICS
from interp.model.hooks.quantized import describe_quantized
from interp.model.hooks.spread import devices_of
from interp.model.hooks.tokens import BosPolicy, adds_bos, appended
from interp.model.hooks.unchanged import fingerprint, made_of

CHANGED = ", changed"
LIBRARIES = ("interp-probes", "torch", "transformers", "transformer-lens", "sae-lens", "tokenizers", "numpy")


@dataclass(frozen=True)
class ModelProvenance:
    """Identifies a loaded model well enough to load it again and to refuse an SAE that was trained on another.

    `weights`: the hub commit, or the SHA-256 of the file(s), a folder's config.json included, with its kind in front
    ("commit:…", "sha256:…"). `quantized`: how the matrices were packed since, or are in the files. `adapter`: the one
    that was merged into these weights, which then name both. `described`:
    what it is, where the name does not say so: an Instruct model is no base model, nor are 4-bit weights the published.
    """

    name: str
    source: Literal["bundled", "hub", "folder", "gguf", "trained here", "made by hand"]
    location: str
    weights: str
    tokenizer: str
    architecture: str
    parameters: int
    dtype: str
    device: str
    numerics: str
    bos: dict[str, Any]
    libraries: dict[str, str]
    adapter: dict[str, Any] | None = None
    described: str = ""
    quantized: str = ""

    @property
    def computes_in(self) -> str:
        """The dtype, and how the weights are stored where that is another thing: what decides the numbers."""
        return f"{self.dtype}, weights in {self.quantized}" if self.quantized else self.dtype


def describe_in_memory(
    hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, source: Literal["trained here", "made by hand"]
) -> ModelProvenance:
    """The provenance of a model that was made here and is in no file; its weights are hashed tensor by tensor."""
    return ModelProvenance(
        name=name,
        source=source,
        location="memory",
        weights=hash_state(hf),
        tokenizer=hash_tokenizer(tokenizer),
        architecture=type(hf).__name__,
        parameters=hf.num_parameters(),
        dtype=str(hf.dtype).removeprefix("torch."),
        device=", ".join(map(str, devices_of(hf))),
        numerics=NUMERICS,
        bos=describe_bos(tokenizer, "tokenizer"),
        libraries=library_versions(),
        quantized=describe_quantized(hf),
    )


def hash_state(hf: PreTrainedModel, more: str = "") -> str:
    """SHA-256 over every weight and buffer by name, and over `more`."""
    digest = hashlib.sha256(more.encode())
    for tensor_name, weight in sorted(hf.state_dict().items()):
        raw = weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8)  # numpy knows no bfloat16
        digest.update(tensor_name.encode() + raw.numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"


def describe_changed(known: ModelProvenance, hf: PreTrainedModel) -> ModelProvenance:
    """The provenance of a model that was changed since it was loaded: other weights, an adapter, a module, a hook."""
    name = known.name if known.name.endswith(CHANGED) else known.name + CHANGED
    weights = hash_state(hf, made_of(hf))
    packed = describe_quantized(hf)
    return replace(known, name=name, source="made by hand", location="memory", weights=weights, quantized=packed)


class FollowedProvenance:
    """A `Model`'s provenance as it is now: of one that was changed since, what it was changed to, not what it was.

    Also in which dtype and on which device, wherever it was loaded to.
    """

    def __get__(self, model: Any, _: object = None) -> ModelProvenance:
        if model is None:
            raise AttributeError("a Model has provenance, its class has none")  # so that it is no default
        known, place, prints = model.__dict__["_provenance"]
        here = (str(model.device), str(model.hf.dtype).removeprefix("torch."))
        moved = here != place
        if (now := fingerprint(model.hf, memory=not moved)) != prints[moved]:
            changed = model.__dict__.setdefault("_changed", {})
            if now not in changed:
                changed.clear()
                changed[now] = describe_changed(known, model.hf)
            known = changed[now]
        return replace(known, device=here[0], dtype=here[1]) if moved else known

    def __set__(self, model: Any, known: ModelProvenance) -> None:
        place = (str(model.device), str(model.hf.dtype).removeprefix("torch."))
        model.__dict__["_provenance"] = known, place, [fingerprint(model.hf, memory=m) for m in (True, False)]


def describe_bos(tokenizer: PreTrainedTokenizerBase, policy: BosPolicy) -> dict[str, Any]:
    """What stands around every text: the policy, whether the tokenizer adds a BOS, and what it appends and we drop."""
    known = {"policy": policy, "tokenizer_adds": adds_bos(tokenizer), "token": tokenizer.bos_token}
    dropped = appended(tokenizer)
    return known | ({"dropped": tokenizer.convert_ids_to_tokens(dropped)} if dropped else {})


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide the numbers, and Python's."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def hash_files(paths: list[Path]) -> str:
    """SHA-256 over the files' bytes, in the order given; a single file's is the one that `sha256sum` prints."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


def hash_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of what decides the ids: vocabulary, merges, pre-tokenizer, special tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        text = repr(sorted(tokenizer.get_vocab().items()))
    else:
        # the state of padding and truncation is what somebody last asked for, and no part of the tokenizer
        parts = {k: v for k, v in json.loads(backend.to_str()).items() if k not in ("padding", "truncation")}
        text = json.dumps(parts, sort_keys=True)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

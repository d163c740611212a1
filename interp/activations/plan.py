"""What a store of activations will hold, down to the byte, decided before the first forward.

A corpus is cut into sequences of at most `context` tokens, sequences into shards; the plan lists them all. Two plans of
the same model, text and settings are equal wherever they are made, so that workers need not talk to each other and a
killed capture goes on where it stopped. Weights and tokenizer are compared by their hashes: what the model is called,
and where it lies, is only told.

What decides the bytes besides: batches are fixed by the plan, because a matrix product over another batch may round in
another way, and so are attention kernel, dtypes and the library versions. Device and threads are told as well, and do
not keep a capture from going on elsewhere: with them equal, too, the bytes are equal; over another number of threads or
another device, fp32 values differ by some 1e-6 of the largest. Every shard's seal says what it was computed on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import torch
from torch import nn

from interp.activations.token_table import Cut, Tokens, read_tokens
from interp.errors import UserError
from interp.model.hooks.forward import path_for
from interp.model.hooks.spread import devices_of
from interp.model.loading.identity import hash_of_files
from interp.model.model import Model
from interp.progress import Progress, silent
from interp.text.corpus import Corpus, from_texts

SCHEMA = 2
READABLE = (1, SCHEMA)  # a plan of schema 1 has the model's name, the device and the threads in its hash
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SHARD_BYTES = 256 << 20
IN_ONE_FOLDER, PER_FOLDER = 10_000, 1_000  # file systems take long over a folder of very many files
BATCH_TOKENS = {"cpu": 1024, "cuda": 16_384}  # measured on a CPU: larger batches gain nothing and cost memory
TOLD = {"model": ("name", "files"), "numerics": ("device", "threads")}  # what a plan tells, and what decides nothing


@dataclass(frozen=True)
class Plan:
    """Everything that decides the bytes of a store.

    `sites`: the shape of a row at each. `shards` [shard]: its first sequence, the one after its last, its first row and
    the one after its last.
    """

    model: dict[str, Any]
    numerics: dict[str, Any]
    cut: dict[str, Any]
    sites: dict[str, list[int]]
    batch_tokens: int
    corpus: dict[str, Any]
    shards: tuple[tuple[int, int, int, int], ...]
    schema: int = SCHEMA
    per_folder: int = 0
    """Shards of a sub-folder; 0 where all lie in the store itself."""

    @cached_property  # it is asked for every shard, and takes a millisecond for a hundred of them
    def hash(self) -> str:
        """SHA-256 of what decides the bytes: the plan's name in every shard."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def compiled(self) -> bool:
        """Do the forwards run compiled code? Its sums are in another order, and so the last bits are others."""
        return bool(self.numerics.get("compiled"))

    @property
    def path(self) -> str:
        """Which of the two runs the forwards, as `forward.path_for` names it."""
        return _named_now(self.numerics["path"])

    def to_json(self) -> str:
        """What decides the bytes as text, the same for plans of the same capture."""
        record = self.as_record()
        return json.dumps(record if self.schema == 1 else deciding(record), indent=1, sort_keys=True)

    def as_record(self) -> dict[str, Any]:
        """As it is written: without what only stores of very many shards have."""
        record = asdict(self)
        if not self.per_folder:
            del record["per_folder"]
        return record

    def is_same(self, other: Plan) -> bool:
        """Are both plans of one capture, wherever the model lies and whatever it is called?

        Weights are the same where the bytes of their files are, or the commit of the hub.
        """
        ours, theirs = comparable(asdict(self)), comparable(asdict(other))
        if self.model["weights"] == other.model["weights"]:
            theirs["model"]["weights"] = ours["model"]["weights"]
        return {**ours, "schema": SCHEMA} == {**theirs, "schema": SCHEMA}


def deciding(plan: Mapping[str, Any]) -> dict[str, Any]:
    """A plan, as a record, without what it only tells: the model's name, the device, the number of threads."""
    parts = {name: {k: v for k, v in plan[name].items() if k not in told} for name, told in TOLD.items()}
    parts["model"]["weights"] = plan["model"].get("files", plan["model"]["weights"])
    return {**plan, **parts}


def comparable(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The same, under the names of today: two plans of one capture are equal, whichever version wrote them."""
    record = deciding(plan)
    numerics = record["numerics"]
    record.pop("per_folder", None)  # where the shards lie is no part of what they hold
    return {
        **record,
        "numerics": {**numerics, "path": _named_now(numerics["path"])} if "path" in numerics else numerics,
    }


def _named_now(path: str) -> str:
    return "plain model" if path == "trunk" else path  # as earlier versions called it


def plan_capture(
    model: Model,
    corpus: Corpus | Iterable[str],
    sites: str | Sequence[str],
    *,
    cut: Cut | None = None,
    dtype: str = "fp32",
    batch_tokens: int | None = None,
    shard_bytes: int = SHARD_BYTES,
    compiled: bool = False,
    progress: Progress = silent,
) -> tuple[Plan, Tokens]:
    """Everything that decides the bytes of a store, and its tokens; reads the corpus, runs the model on a few tokens.

    `batch_tokens` are the tokens of a forward, with padding: by default 1,024 on a CPU, 16,384 on a GPU, and at least
    one sequence. `compiled`: torch compiles the model's blocks, whose values then differ by some 1e-6 of the largest.
    `cut`: by default sequences of 128 tokens, or as many as the model takes.
    Raises UserError for a site that is unknown or has no row a token, an unknown dtype, a bad document.
    """
    model.check_plain("capture")
    if shard_bytes < 1:
        raise UserError(f"shard_bytes {shard_bytes}; expected 1 or more; a shard holds one sequence at least")
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r}; expected one of {', '.join(DTYPES)}")
    shapes = site_shapes(model, sites)
    cut = cut or Cut(fit_context(model, None))
    fit_context(model, cut.context)
    batch_tokens = batch_tokens or max(cut.context, BATCH_TOKENS.get(model.device.type, 1024))
    if batch_tokens < cut.context:
        raise UserError(f"batch_tokens {batch_tokens}; expected the context, {cut.context}, or more")
    corpus = corpus if isinstance(corpus, Corpus) else from_texts(corpus)
    tokens, read = read_tokens(model, corpus, cut, progress)
    row = DTYPES[dtype].itemsize * sum(map(prod, shapes.values()))
    shards = cut_shards(tokens, row, shard_bytes)
    plan = Plan(
        model=_describe(model, shapes),
        numerics=numerics_of(model, shapes, dtype, compiled=compiled),
        cut=asdict(cut) | {"bos": {**model.provenance.bos, "policy": model.bos}},
        sites=shapes,
        batch_tokens=batch_tokens,
        corpus=read,
        shards=shards,
        per_folder=PER_FOLDER if len(shards) > IN_ONE_FOLDER else 0,
    )
    return plan, tokens


def _describe(model: Model, sites: Iterable[str]) -> dict[str, Any]:
    """What a plan says of the model. `files`: the bytes that a name on the hub stands for, as of a folder with them."""
    provenance = model.provenance
    record: dict[str, Any] = {key: getattr(provenance, key) for key in ("name", "weights", "tokenizer", "architecture")}
    if (files := hash_of_files(provenance)) is not None:
        record["files"] = files
    registered = {name: str(place) for name, place in model.site_table.registered.items() if name in set(sites)}
    return record | ({"registered": registered} if registered else {})


def fit_context(model: Model, context: int | None) -> int:
    """`context`, or without one 128 tokens or as many as the model takes. Raises UserError for more than it takes."""
    limit = model.context_length
    if context is None:
        return min(Cut.context, limit or Cut.context)
    if limit and context > limit:
        raise UserError(
            f"context {context}; this model takes {limit} tokens at most; choose {limit} or fewer, or leave it out"
        )
    return context


def numerics_of(model: Model, sites: Mapping[str, Any], stored: str, *, compiled: bool) -> dict[str, Any]:
    """What decides the numbers of a capture by this process beside the model's weights."""
    libraries = model.provenance.libraries
    return {
        "compute": model.provenance.computes_in,
        "stored": stored,
        "path": path_for(model.tree, sites),
        "attention": getattr(model.hf.config, "_attn_implementation", None),
        **kernels(model.hf),
        **({"compiled": True} if compiled else {}),
        "libraries": {name: libraries.get(name) for name in ("torch", "transformers")},
    }


def kernels(hf: nn.Module) -> dict[str, str | int | None]:
    """What chooses the order in which floating-point numbers are added, and so their last bits: each kind of card."""
    cards = [torch.cuda.get_device_name(device) for device in devices_of(hf) if device.type == "cuda"]
    if cards:
        return {"device": " and ".join(dict.fromkeys(cards)), "threads": None}
    device = next(iter(devices_of(hf)))
    return {"device": f"{device.type} {torch.backends.cpu.get_cpu_capability()}", "threads": torch.get_num_threads()}


def site_shapes(model: Model, sites: str | Sequence[str]) -> dict[str, list[int]]:
    """The shape of one row at every site that matches. Raises UserError for a site without one row a token."""
    names = model.tree.match(sites)
    for name in names:
        axes = model.site_table.axes[name]
        if axes[:2] != ("prompt", "pos") or "pos" in axes[2:]:
            raise UserError(
                f"site {name!r} has the axes {', '.join(axes)} and no row a token; a store cannot hold it; "
                "choose others, such as 'blocks.*.hook_resid_post'"
            )
    acts = model.capture([[0, 0]], names)
    return {name: list(acts[name].shape[2:]) for name in names}


def cut_shards(
    tokens: Tokens, bytes_per_row: int, shard_bytes: int = SHARD_BYTES
) -> tuple[tuple[int, int, int, int], ...]:
    """Shards of whole sequences, each of at most `shard_bytes` where a sequence is not larger."""
    rows = max(1, shard_bytes // bytes_per_row)
    starts, shards, first = tokens.starts, [], 0
    while first + 1 < len(starts):
        last = max(first + 1, int(np.searchsorted(starts, starts[first] + rows, side="right")) - 1)
        shards.append((first, last, int(starts[first]), int(starts[last])))
        first = last
    return tuple(shards)


def batches_of(tokens: Tokens, shard: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """The sequences of a shard in batches of nearly one length, at most `batch_tokens` with padding; longest first."""
    lengths = tokens.lengths
    order = sorted(range(shard[0], shard[1]), key=lambda i: (-lengths[i], i))
    batch: list[int] = []
    for index in order:
        if batch and (len(batch) + 1) * lengths[batch[0]] > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch

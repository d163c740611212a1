"""Continue prompts token by token, on top of attention's cache; edits and captures see the prompt, then each new token.

No second forward over what was generated: activations are kept on the way.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from interp.errors import UserError
from interp.model.hooks.asked import has_length_switch, length_kind, padding_is_harmless
from interp.model.hooks.caches import cache_repeats, copies_of, one_of_each, repeated
from interp.model.hooks.captured import Activations
from interp.model.hooks.forward import check_fits, engine_for, forward, keeps_a_cache
from interp.model.hooks.host import cut, joined, known
from interp.model.hooks.tokens import Kept, Tokens, pad
from interp.model.hooks.tree import HookedTree

_UNSET = {"seed": "; for another text each time, draw it: random.randrange(2**32)"}
COLDEST = 1e-30  # below it, the likeliest token is certain, and a float cannot hold the quotient


@dataclass(frozen=True)
class Generation:
    """What a model wrote. `ids` [prompt]: the new tokens, a closing end-of-text token included; `texts`: as text.

    `activations`: of prompts and new tokens at the captured sites, padded on the left, or None. A prompt's last new
    token has none: it was chosen, but the model never read it.
    """

    ids: list[list[int]]
    texts: list[str]
    activations: Activations | None


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. `temperature` 0: always the likeliest; above: drawn, among the `top_k` likeliest.

    Raises UserError for values out of range.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_k: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in (("max_new_tokens", self.max_new_tokens), ("top_k", self.top_k), ("seed", self.seed)):
            whole = hasattr(value, "__index__") and not isinstance(value, bool)
            if not whole and not (name == "top_k" and value is None):
                raise UserError(f"{name}={value!r:.40}; expected a whole number" + _UNSET.get(name, ""))
        if isinstance(self.temperature, str | bool) or not hasattr(self.temperature, "__float__"):
            raise UserError(
                f"temperature={self.temperature!r:.40}; expected a number: 0 for the likeliest token, above to draw"
            )
        if not 0 <= int(self.seed) < 1 << 63:
            raise UserError(f"seed={self.seed}; expected 0 to 2**63 - 1")
        if self.top_k is not None and self.temperature == 0:
            raise UserError(
                f"top_k={self.top_k} came without a temperature, and the likeliest token is taken each time; give a "
                "temperature above 0 to draw"
            )
        if self.max_new_tokens < 1 or (self.top_k is not None and self.top_k < 1):
            raise UserError(f"max_new_tokens={self.max_new_tokens}, top_k={self.top_k}; expected 1 or more")
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature={self.temperature}; expected 0 (always the likeliest token) or more")


def generate(
    tree: HookedTree, rows: Sequence[list[int]], sites: Sequence[str], sampling: Sampling, ends: Collection[int]
) -> tuple[list[list[int]], Activations | None]:
    """The new ids of every prompt, and the activations at `sites` (full names) of prompts and new tokens.

    A prompt ends at any of the ids `ends`. Prompts of different lengths go side by side, padded on the left, where that
    changes no number of this model, else length by length.
    Raises UserError for prompts that do not fit the context with the new tokens.
    """
    check_fits(tree, rows, sampling.max_new_tokens)
    _check_sites(tree, sites)
    choose = _Choice(sampling, rows, tree.hf.device)
    ids: list[list[int]] = [[] for _ in rows]
    written: list[_Written] = []
    for group in _groups(tree, rows, sites, sampling.max_new_tokens):
        run = _Written(tree, [rows[i] for i in group], group, len(rows), sites, sampling.max_new_tokens)
        for i, new in zip(group, run.write(choose, sampling.max_new_tokens, ends), strict=True):
            ids[i] = new
        written.append(run)
    return ids, _joined(tree, written, len(rows), sites) if sites else None


def _groups(tree: HookedTree, rows: Sequence[list[int]], sites: Sequence[str], new: int) -> list[list[int]]:
    """Prompts that are continued side by side."""
    lengths = [len(row) for row in rows]
    first: dict[tuple[int, ...], int] = {}
    places = [first.setdefault(tuple(row), i) for i, row in enumerate(rows)]
    alike = sorted(range(len(rows)), key=lambda i: places[i])  # equal prompts are neighbours, and read once
    together = len(set(lengths)) == 1
    if not together:
        kinds = (
            {length_kind(tree, length + n) for length in lengths for n in (0, new)} if has_length_switch(tree) else ()
        )
        together = len(kinds) < 2 and padding_is_harmless(tree, engine_for(tree, sites), "left")
    if together:
        return [alike]
    return [[i for i in alike if lengths[i] == length] for length in sorted(set(lengths))]


def _check_sites(tree: HookedTree, sites: Sequence[str]) -> None:
    for site in sites:
        axes = tree.site_table.axes[site]
        if axes[0] != "prompt" or "pos" not in axes:
            raise UserError(f"generate cannot capture {site}: its axes are {', '.join(axes)}; expected one for tokens")


class _Written:
    """Some prompts and what is written behind them, with the activations on the way."""

    def __init__(
        self, tree: HookedTree, rows: list[list[int]], index: list[int], total: int, sites: Sequence[str], new: int
    ) -> None:
        self.tree, self.sites = tree, sites
        self.prompt = pad(rows, index, total, "left", 0, tree.hf.device)
        self.read = self.prompt  # all tokens that the model has read, or is to read next
        self.cached = keeps_a_cache(tree, sites, rows, new)
        self.kept = Kept()  # without a cache everything is read again, but an edit is not asked again
        self.cache: Any = None
        self.steps = 0
        self.pieces: dict[str, list[Tensor]] = {site: [] for site in sites}

    def write(self, choose: _Choice, most: int, ends: Collection[int]) -> list[list[int]]:
        """The new ids of each prompt."""
        going = torch.ones(len(self.prompt.ids), dtype=torch.bool, device=self.prompt.ids.device)
        last = torch.tensor(sorted(ends), device=going.device, dtype=torch.long)
        new: list[Tensor] = []
        while True:
            token = choose(self.forward(), self.prompt.index.tolist())
            new.append(torch.where(going, token, -1))
            going = going & ~torch.isin(token, last)
            if len(new) == most or not bool(known(going).any()):
                return [[t for t in row if t >= 0] for row in torch.stack(new, 1).tolist()]
            self.feed(token, going)

    def forward(self) -> Tensor:
        """Logits behind the last token: [prompt, d_vocab]."""
        if not self.steps and (copies := self.copies()) > 1:
            return self.forward_once(copies)
        batch = self.next()
        width = 1 if self.steps else batch.ids.shape[1]
        watch = {site: self.reader(site, width) for site in self.sites}
        ran = forward(self.tree, batch, watch=watch, keep=1, cache=self.cache, use_cache=self.cached)
        self.cache, self.steps = ran.cache if self.cached else None, self.steps + 1
        return ran.logits[:, -1].float()

    def copies(self) -> int:
        """How many copies of each prompt may share what is read of it; 1 where there are none, or they may not."""
        if not self.cached or self.sites or self.tree.is_edited:  # an edit may do another thing to each copy
            return 1
        copies = copies_of(self.prompt)
        return copies if copies > 1 and cache_repeats(self.tree) else 1

    def forward_once(self, copies: int) -> Tensor:
        """The first forward where every prompt stands `copies` times: it reads each once."""
        ran = forward(self.tree, one_of_each(self.prompt, copies), keep=1, use_cache=True)
        self.cache, self.steps = repeated(ran.cache, copies), 1
        return ran.logits[:, -1].float().repeat_interleave(copies, 0)

    def next(self) -> Tokens:
        """What the coming forward reads: the newest token on top of the cache, or everything again without one."""
        if not self.cached:
            self.forget_moved()
            turns = (self.prompt.ids.shape[1], *[1] * self.steps)
            return replace(self.read, turns=turns, kept=self.kept)
        if not self.steps:
            return self.prompt
        ids, (past, mask) = self.read.ids[:, -1:], cut(self.read.mask, -1)
        return Tokens(ids, mask, self.prompt.index, self.prompt.total, past=past)

    def forget_moved(self) -> None:
        """Ask edits anew where the newest token gives all others new positions (LongRoPE), and so new activations."""
        length = self.read.ids.shape[1]
        if not self.steps or length_kind(self.tree, length) == length_kind(self.tree, length - 1):
            return
        self.kept.pieces.clear()
        if self.tree.is_edited:
            told = f"at {length} tokens the positions of this model change: it reads all of them again, and so do edits"
            self.tree.once("told of moved positions", lambda: print(told, file=sys.stderr))

    def feed(self, token: Tensor, going: Tensor) -> None:
        """Read `token` next; prompts that are done read padding."""
        ids = torch.cat([self.read.ids, torch.where(going, token, 0)[:, None]], dim=1)
        self.read = replace(self.read, ids=ids, mask=joined(self.read.mask, going[:, None], known(going)[:, None]))

    def reader(self, site: str, width: int) -> Any:
        """What keeps the newest `width` tokens' activations of one forward."""
        axis, seen = self.tree.site_table.axes[site].index("pos"), []

        def see(value: Tensor) -> None:
            if not seen:  # a module that runs twice shows its first run
                seen.append(True)
                self.pieces[site].append(value.narrow(axis, value.shape[axis] - width, width).detach().clone())

        return see

    def activations(self, site: str, axes: tuple[str, ...]) -> Tensor:
        """All that was read at a site, NaN on padding; keys that were not there yet got no attention."""
        query, *key = (axis for axis, kind in enumerate(axes) if kind == "pos")
        mask = self.read.mask
        pieces, ends = self.pieces[site], range(self.prompt.ids.shape[1], mask.shape[1] + 1)  # columns read by each
        for axis in key:
            pieces = [_widened(p, axis, end, mask.shape[1]) for p, end in zip(pieces, ends, strict=True)]
        whole = torch.cat(pieces, dim=query)
        for axis in (query, *key):
            shape = [1] * whole.ndim
            shape[0], shape[axis] = mask.shape
            whole = whole.masked_fill(~mask.view(shape), torch.nan)
        return whole


class _Choice:
    """Chooses the next token of every prompt.

    Each prompt draws by a generator of its own, seeded by the prompt: batch mates change no text. A prompt that came
    before draws another text.
    """

    def __init__(self, sampling: Sampling, rows: Sequence[list[int]], device: torch.device) -> None:
        self.sampling = sampling
        seen: Counter[tuple[int, ...]] = Counter()
        self.generators: list[torch.Generator] = []
        for row in map(tuple, rows) if sampling.temperature else ():
            drawn = hashlib.sha256(repr((int(sampling.seed), row, seen[row])).encode()).digest()
            self.generators.append(torch.Generator(device).manual_seed(int.from_bytes(drawn[:7])))
            seen[row] += 1

    def __call__(self, logits: Tensor, prompts: Sequence[int]) -> Tensor:
        """The tokens [row] chosen by logits [row, d_vocab] of these prompts."""
        temperature, top_k = self.sampling.temperature, self.sampling.top_k
        if temperature == 0:
            return logits.argmax(-1)
        scores = (logits - logits.amax(-1, keepdim=True)) / max(temperature, COLDEST)  # the largest is 0
        if top_k is not None:
            least = scores.topk(min(top_k, scores.shape[-1]), dim=-1).values[:, -1:]
            scores = scores.masked_fill(scores < least, -torch.inf)
        shares = zip(prompts, scores.softmax(-1), strict=True)
        return torch.cat([torch.multinomial(share, 1, generator=self.generators[i]) for i, share in shares])


def _widened(piece: Tensor, axis: int, end: int, width: int) -> Tensor:
    """All `width` keys: zeros behind the `end` that were read, and before those that a sliding window's cache holds."""
    before, behind = max(0, end - piece.shape[axis]), width - max(end, piece.shape[axis])
    sides = [0, 0] * (piece.ndim - 1 - axis) + [before, behind]
    return torch.nn.functional.pad(piece, sides)


def _joined(tree: HookedTree, groups: Sequence[_Written], total: int, sites: Sequence[str]) -> Activations:
    """The activations of all groups, every prompt's end in one column."""
    start = max(group.prompt.ids.shape[1] for group in groups)
    width = start + max(group.read.ids.shape[1] - group.prompt.ids.shape[1] for group in groups)
    device = tree.hf.device
    ids = torch.full((total, width), -1, dtype=torch.long, device=device)
    tensors: dict[str, Tensor] = {}
    axes = {site: tree.site_table.axes[site] for site in sites}
    for group in groups:
        first = start - group.prompt.ids.shape[1]
        span = slice(first, first + group.read.ids.shape[1])
        rows = group.prompt.index.to(device)
        ids[rows, span] = group.read.ids.masked_fill(~group.read.mask, -1)
        for site in sites:
            value = group.activations(site, axes[site])
            shape = [width if kind == "pos" else size for kind, size in zip(axes[site], value.shape, strict=True)]
            whole = tensors.setdefault(site, value.new_full([total, *shape[1:]], torch.nan))
            whole[(rows, *(span if kind == "pos" else slice(None) for kind in axes[site][1:]))] = value
    return Activations(tensors, ids >= 0, ids, axes)

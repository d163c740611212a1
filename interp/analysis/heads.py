"""What do attention heads look at? Scores on repeated random tokens, where nothing but the repetition can help.

A sequence of random tokens is shown twice (Olsson et al. 2209.11895). At a token of the second copy, a *duplicate* head
looks at the same token in the first, an *induction* head at the one behind that, and a *previous-token* head at the
token just before. A score is the mean attention paid there; a head that looks everywhere alike scores 1 / position.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import UserError
from interp.model.choose import only
from interp.model.edits import ablate
from interp.model.hooks.editing import Edit
from interp.model.hooks.forward import batches, stream
from interp.model.hooks.given import makes
from interp.model.hooks.shown import Shown
from interp.model.hooks.sites import layer_of
from interp.model.hooks.tokens import Prompts
from interp.model.hooks.tree import looks_once
from interp.model.model import Model

KINDS = ("previous", "duplicate", "induction")


@dataclass(frozen=True, repr=False)
class HeadScores(Shown):
    """`scores[kind]` [sequence, layer, head]: mean attention to the place that the kind of head looks at.

    `chance` [kind]: the same for a head that attends to all earlier tokens alike.
    """

    scores: dict[str, Float[Tensor, "sequence layer head"]]
    chance: dict[str, float]

    def top(self, kind: str, n: int = 5) -> list[tuple[int, int, float]]:
        """The heads of the highest mean score: (layer, head, score)."""
        mean = self.scores[kind].mean(0)
        best = mean.flatten().nan_to_num(-1.0).argsort(descending=True)[:n].tolist()
        return [(i // mean.shape[1], i % mean.shape[1], float(mean.flatten()[i])) for i in best]


def repeated_tokens(
    model: Model, *, length: int = 25, sequences: int = 8, seed: int = 0, words: Sequence[int] | None = None
) -> list[list[int]]:
    """Random tokens, each sequence twice in a row behind the token that opens every text of this model.

    `words`: ids to draw from; by default all that are no special tokens. No token comes twice in one copy.
    Raises UserError for a length that is below 2 or above the number of tokens to draw from.
    """
    special = set(model.tokenizer.all_special_ids)
    pool = [i for i in range(len(model.tokenizer)) if i not in special] if words is None else list(words)
    pool = list(dict.fromkeys(pool))
    if length < 2 or sequences < 1 or length > len(pool):
        raise UserError(f"length={length}, sequences={sequences}; expected 2 to {len(pool)} tokens, and a sequence")
    opener = model.tokenizer.bos_token_id
    start = [int(opener)] if isinstance(opener, int) else [pool.pop(0)]  # in no copy, or it would come twice
    generator = torch.Generator().manual_seed(seed)
    drawn = [[pool[i] for i in torch.randperm(len(pool), generator=generator)[:length]] for _ in range(sequences)]
    return [[*start, *ids, *ids] for ids in drawn]


def score_heads(model: Model, sequences: Sequence[list[int]], *, batch_size: int = 4) -> HeadScores:
    """Score every head on sequences that `repeated_tokens` made. Raises UserError for sequences of another form."""
    length = (len(sequences[0]) - 1) // 2 if sequences else 0
    if length < 1 or any(len(ids) != 2 * length + 1 or ids[1 : length + 1] != ids[length + 1 :] for ids in sequences):
        raise UserError("expected sequences of one length, an opening token and then the same tokens twice")
    queries = torch.arange(length + 1, 2 * length + 1)
    keys = {"previous": queries - 1, "duplicate": queries - length, "induction": queries - length + 1}
    chance = float((1 / (queries + 1)).mean())
    return HeadScores(
        attention_paid(model, sequences, queries, keys, batch_size=batch_size), dict.fromkeys(KINDS, chance)
    )


@looks_once
def attention_paid(
    model: Model,
    sequences: Sequence[list[int]],
    queries: Int[Tensor, " n"],
    keys: Mapping[str, Int[Tensor, " n"]],
    *,
    batch_size: int = 4,
) -> dict[str, Float[Tensor, "sequence layer head"]]:
    """Mean attention from the tokens `queries` to the tokens `keys[kind]`, one by one, for every kind and head.

    NaN in a layer without attention (a state space, a convolution).
    """
    ids = model.encode(list(sequences))
    least, length = min(map(len, ids)), max(map(len, ids))
    places = torch.cat([queries, *keys.values()])
    if least != length or int(places.min()) < 0 or int(places.max()) >= length:
        raise UserError(
            f"sequences of {least} to {length} tokens and places {int(places.min())} to {int(places.max())} came; "
            "expected sequences of one length, and places in them"
        )
    sites = model.tree.match("blocks.*.attn.hook_pattern")
    paid = {kind: torch.full((len(ids), model.n_layers, 0), torch.nan) for kind in keys}

    def keep(site: str, pattern: Tensor, index: Tensor) -> None:
        """Only what is paid to the places: patterns are large, and all layers come in one forward."""
        for kind, where in keys.items():
            here = pattern[:, :, queries.to(pattern.device), where.to(pattern.device)].float().mean(-1).cpu()
            if not paid[kind].shape[2]:
                paid[kind] = torch.full((len(ids), model.n_layers, here.shape[1]), torch.nan)
            paid[kind][index, layer_of(site) or 0] = here

    for batch in batches(model.tree, ids, batch_size, "right", sites):
        stream(model.tree, batch, sites, partial(keep, index=batch.index))
    return paid


def mean_outputs(model: Model, prompts: Prompts) -> dict[str, Float[Tensor, "head d_head"]]:
    """What each head reads on average over all tokens of `prompts` but the first, by site `attn.hook_z`.

    Raises UserError where every prompt is one token long.
    """
    acts = model.capture(prompts, "blocks.*.attn.hook_z")
    if not bool(acts.mask[:, 1:].any()):
        raise UserError("every prompt is one token long; expected longer ones: the first token is left out")
    return {site: acts[site][:, 1:][acts.mask[:, 1:]].mean(0) for site in acts}


@makes("ablate_heads([(5, 1)], mean_outputs(model, prompts)), which gives the whole dictionary of edits")
def ablate_heads(
    heads: Iterable[tuple[int, int]], to: Mapping[str, Float[Tensor, "head d_head"]] | None = None
) -> dict[str, Edit]:
    """Edits that hold these heads (layer, head) at `to`, which `mean_outputs(model, prompts)` gives.

    Raises UserError without `to`, for heads that are no pairs of numbers, and for a layer that `to` has not.
    """
    if not isinstance(to, Mapping):
        got = "no values" if to is None else f"a {type(to).__name__}"
        raise UserError(
            f"ablate_heads got {got} to hold the heads at; expected to=mean_outputs(model, prompts), their means over "
            "other prompts (from interp.analysis)"
        )
    pairs: list[tuple[int, int]] = list(heads) if isinstance(heads, Iterable) else []
    if not pairs or not all(
        isinstance(pair, Sequence) and len(pair) == 2 and all(hasattr(i, "__index__") for i in pair) for pair in pairs
    ):
        raise UserError(f"ablate_heads got heads={heads!r:.60}; expected pairs (layer, head), such as [(5, 1), (5, 3)]")
    chosen: dict[int, list[int]] = {}
    for layer, head in pairs:
        chosen.setdefault(layer, []).append(head)
    sites = {layer: f"blocks.{layer}.attn.hook_z" for layer in chosen}
    if missing := [site for site in sites.values() if site not in to]:
        raise UserError(
            f"ablate_heads got no values for {missing[0]}; expected what mean_outputs gives: {', '.join(to)}"
        )
    return {sites[layer]: only(ablate(to=to[sites[layer]]), heads=some) for layer, some in chosen.items()}


def others_like(heads: Sequence[tuple[int, int]], shape: tuple[int, int], *, seed: int) -> list[tuple[int, int]]:
    """As many heads drawn at random, none of them in `heads`, layer by layer as many as there are left.

    A layer's place decides much of what a head does, so that the control of a set of heads comes from the same layers.
    `shape`: layers, and heads of each. Raises UserError where too few heads are left.
    """
    rng = random.Random(seed)
    taken, spare = list[tuple[int, int]](), [(i, j) for i in range(shape[0]) for j in range(shape[1])]
    spare = [head for head in spare if head not in set(heads)]
    if len(spare) < len(heads):
        raise UserError(f"{len(heads)} of {shape[0] * shape[1]} heads leave no {len(heads)} others; choose fewer")
    for layer, _ in heads:
        same = [head for head in spare if head[0] == layer]
        drawn = rng.choice(same or spare)
        spare.remove(drawn)
        taken.append(drawn)
    return taken


def sets_like(
    heads: Sequence[tuple[int, int]], shape: tuple[int, int], n: int, *, seed: int
) -> list[list[tuple[int, int]]]:
    """At most `n` sets of other heads (`others_like`), all different: one set twice would pass for two.

    Fewer where there are no more, and none where too few heads are left.
    """
    if shape[0] * shape[1] - len(set(heads)) < len(heads):
        return []
    drawn: dict[frozenset[tuple[int, int]], list[tuple[int, int]]] = {}
    for i in range(20 * n):
        if len(drawn) == n:
            break
        others = others_like(heads, shape, seed=seed + i)
        drawn.setdefault(frozenset(others), others)
    return list(drawn.values())

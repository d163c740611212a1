"""Prediction trajectories: how a prediction forms. What a lens reads from the residual stream at every layer and token.

The plain reader is the logit lens (nostalgebraist 2020: final norm and unembedding on every layer); a tuned lens
(`interp.analysis.tuned_lens`) first translates a layer into the language of the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import UserError
from interp.model.model import Model

Lens = Callable[[Float[Tensor, "row d_model"], int], Float[Tensor, "row d_vocab"]]
Cell = dict[str, str | int | float | None]


@dataclass(frozen=True)
class Trajectory:
    """What a lens reads from one prompt. Layer l is the residual stream after l blocks (0: the embedding).

    `tokens` [pos]: the prompt's. `layers` [layer]. `best` [layer, pos]: id of the likeliest next token; `words`: the
    same as text. `log_prob`, `entropy`: of that token and of the whole distribution, in nats. `divergence`: KL from the
    model's own prediction to the lens', in nats. `answer`: log-probability of the token that was asked for.
    """

    tokens: tuple[str, ...]
    layers: tuple[int, ...]
    best: Int[Tensor, "layer pos"]
    words: tuple[tuple[str, ...], ...]
    log_prob: Float[Tensor, "layer pos"]
    entropy: Float[Tensor, "layer pos"]
    divergence: Float[Tensor, "layer pos"]
    answer: Float[Tensor, "layer pos"] | None

    def __repr__(self) -> str:
        layers = ", ".join(map(str, self.layers))
        return f"Trajectory({''.join(self.tokens)!r}, layers {layers}; at its end {self.words[-1][-1]!r})"

    def rows(self) -> list[Cell]:
        """One row a layer and token: the table of a finding whose figure is a `lens_grid`."""
        return [
            {
                "layer": layer,
                "position": pos,
                "token": self.tokens[pos],
                "reads": self.words[i][pos],
                "probability": float(self.log_prob[i, pos].exp()),
                "entropy (nats)": float(self.entropy[i, pos]),
                "KL from the final prediction (nats)": float(self.divergence[i, pos]),
            }
            | ({} if self.answer is None else {"answer's log-probability (nats)": float(self.answer[i, pos])})
            for i, layer in enumerate(self.layers)
            for pos in range(len(self.tokens))
        ]


def trace_prediction(
    model: Model,
    prompt: str | Sequence[int],
    *,
    lens: Lens | None = None,
    layers: Iterable[int] | None = None,
    answer: int | None = None,
) -> Trajectory:
    """Read every layer of one prompt through `lens`, by default the logit lens. `answer`: a token id to follow.

    Raises UserError for a layer that is not there, a token that is none, and several prompts.
    """
    ids = model.encode([prompt] if isinstance(prompt, str) else [list(prompt)])
    read = lens or (lambda resid, layer: model.unembed(resid))
    if not callable(read):
        raise UserError(f"lens={lens!r:.40}; expected a function (resid, layer) -> logits, such as a TunedLens")
    if layers is not None and not isinstance(layers, Iterable):
        raise UserError(f"layers={layers!r}; expected several, such as [0, 10, {model.n_layers}]")
    if layers is None:  # all, or all that the lens can translate
        known = getattr(lens, "layers", None)
        layers = range(model.n_layers + 1) if known is None else [*known, model.n_layers]
    chosen = tuple(layers)
    if not chosen:
        raise UserError(f"no layer came; expected some of 0 (the embedding) to {model.n_layers}")
    if answer is not None and (isinstance(answer, bool) or not isinstance(answer, int)):
        raise UserError(f"answer={answer!r:.40}; expected a token id: model.token_id(text)")
    sites = [model.residual(layer) for layer in chosen]
    acts = model.capture(ids, [*sites, model.residual(model.n_layers)])
    final = model.unembed(acts[model.residual(model.n_layers)][0]).float().log_softmax(-1)
    if answer is not None and not 0 <= answer < final.shape[-1]:
        raise UserError(f"token id {answer} came as the answer, and the model has {final.shape[-1]} tokens")
    kept: list[tuple[Tensor, ...]] = []
    for layer, site in zip(chosen, sites, strict=True):  # one at a time: a vocabulary is wide
        logs = read(acts[site][0], layer).detach().float().log_softmax(-1)
        top = logs.max(-1)
        entropy = -(logs.exp() * logs).sum(-1)
        divergence = (final.exp() * (final - logs)).sum(-1)
        followed = logs[:, answer] if answer is not None else torch.empty(0)
        kept.append((top.indices, top.values, entropy, divergence, followed))
    best, log_prob, entropies, divergences, follow = (torch.stack(part).cpu() for part in zip(*kept, strict=True))
    words = tuple(tuple(model.vocabulary[i] for i in line) for line in best.tolist())
    tokens = tuple(model.vocabulary[i] for i in ids[0])
    return Trajectory(
        tokens, chosen, best, words, log_prob, entropies, divergences, follow if answer is not None else None
    )

"""The checks that every architecture goes through, against `plain.Plain`, each with a fault that it must find.

A check is a function `(trial, fault) -> gap`: how far `interp` is from plain transformers, over its largest value. With
`fault` on, the reference is spoilt on purpose, and the same comparison must see it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from architecture_kinds import build
from architectures import ARCHITECTURES, REFUSED
from plain import Plain, changed, steered
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from interp import Model, UserError
from interp.edits import ablate, only, steer
from interp.model.gradients import gradients_of
from interp.model.provenance import describe_in_memory

TOLERANCE = 1e-4  # of the largest value
LENGTHS = (3, 6, 14)  # shorter than a window, before and behind the switch of LongRoPE
NEW = 8  # tokens to generate
TIE = 0.01  # two logits nearer than this are a tie, and either token is right
NEVER = float("inf")


@dataclass
class Trial:
    """One architecture: the model under test, its reference, and the prompts."""

    name: str
    tokenizer: PreTrainedTokenizerBase
    notes: list[str] = field(default_factory=list)

    @cached_property
    def model(self) -> Model:
        """The model as `load_model` would have it: with the attention that transformers chooses."""
        hf = build(ARCHITECTURES[self.name], len(self.tokenizer), eager=False)
        return Model(hf, self.tokenizer, describe_in_memory(hf, self.tokenizer, self.name, "made by hand"))

    @cached_property
    def plain(self) -> Plain:
        return Plain(self.name, len(self.tokenizer))

    @cached_property
    def rows(self) -> list[list[int]]:
        """Three prompts of token ids, no end-of-text or padding token among them."""
        draw = torch.Generator().manual_seed(5)
        return [torch.randint(2, len(self.tokenizer), (n,), generator=draw).tolist() for n in LENGTHS]

    @cached_property
    def direction(self) -> Tensor:
        return 4.0 * torch.randn(32, generator=torch.Generator().manual_seed(6))

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def gap(pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    """The largest difference over the largest value of what is right; infinite for another shape, or NaN."""
    worst = 0.0
    for came, right in pairs:
        if came.shape != right.shape or not bool(torch.isfinite(came).all()):
            return NEVER
        worst = max(worst, float((came - right).abs().max()) / max(float(right.abs().max()), 1e-12))
    return worst


def logits(trial: Trial, fault: bool) -> float:
    """Logits of every prompt alone. Fault: the first MLP is 1 % too loud."""
    with changed(trial.plain.mlp(0), lambda t: t * 1.01) if fault else nullcontext():
        right = [trial.plain.logits(row) for row in trial.rows]
    every = [(trial.model.logits([row])[0], want) for row, want in zip(trial.rows, right, strict=True)]
    last = [(trial.model.last_logits([row])[0], want[-1]) for row, want in zip(trial.rows, right, strict=True)]
    return gap([*every, *last])


def batch(trial: Trial, fault: bool) -> float:
    """Logits of all prompts in one padded batch, on both sides. Fault: padding is read as text."""
    wide = max(LENGTHS)
    right = [
        trial.plain.logits([0] * (wide - len(row)) + row)[-len(row) :] if fault else trial.plain.logits(row)
        for row in trial.rows
    ]
    padded = trial.model.logits(trial.rows)
    pairs = [(padded[i, : len(want)], want) for i, want in enumerate(right)]
    pairs += [(trial.model.last_logits(trial.rows)[i], want[-1]) for i, want in enumerate(right)]
    try:
        padded = trial.model.logits(trial.rows, padding="left")
        pairs += [(padded[i, -len(want) :], want) for i, want in enumerate(right)]
    except UserError as refused:
        trial.note(f"left padding refused: {refused}")
    return gap(pairs)


def streams(trial: Trial, fault: bool) -> float:
    """Inputs and outputs of every block. Fault: read one layer off."""
    sites = [f"blocks.*.hook_resid_{end}" for end in ("pre", "post")]
    acts = trial.model.capture(trial.rows, sites)
    layers = range(len(trial.plain.blocks))
    if missing := {f"blocks.{i}.hook_resid_{end}" for i in layers for end in ("pre", "post")} - set(acts):
        trial.note(f"no site {', '.join(sorted(missing))}")
        return NEVER
    pairs: list[tuple[Tensor, Tensor]] = []
    for i, row in enumerate(trial.rows):
        right = trial.plain.streams(row)
        right = right[1:] + right[:1] if fault else right
        for layer, (pre, post) in enumerate(right):
            pairs.append((acts[f"blocks.{layer}.hook_resid_pre"][i, : len(row)], pre))
            pairs.append((acts[f"blocks.{layer}.hook_resid_post"][i, : len(row)], post))
    return gap(pairs)


def patterns(trial: Trial, fault: bool) -> float | None:
    """Attention patterns of every layer that has them. Fault: the next head's."""
    if not trial.plain.heads or trial.plain.made.eager_is_wrong:  # only eager code gives patterns
        return None
    site = "blocks.{}.attn.hook_pattern"
    acts = trial.model.capture(trial.rows, site.format("*"))
    if missing := {site.format(layer) for layer in trial.plain.heads} - set(acts):
        trial.note(f"no site {', '.join(sorted(missing))}")
        return NEVER
    pairs: list[tuple[Tensor, Tensor]] = []
    for i, row in enumerate(trial.rows):
        for layer, right in trial.plain.patterns(row).items():
            mine = acts[site.format(layer)][i, :, : len(row), : len(row)]
            pairs.append((mine, right.roll(1, 0) if fault else right))
    return gap(pairs)


def steering(trial: Trial, fault: bool) -> float:
    """Logits with a direction added behind block 0. Fault: behind block 1."""
    with trial.model.edit({"blocks.0.hook_resid_post": steer(trial.direction)}):
        came = trial.model.logits(trial.rows)
    with steered(trial.plain, int(fault), trial.direction):
        return gap((came[i, : len(row)], trial.plain.logits(row)) for i, row in enumerate(trial.rows))


def ablation(trial: Trial, fault: bool) -> float | None:
    """Logits without the first MLP, and without any, by a pattern. Fault: another layer's MLP is missing as well."""
    if not trial.plain.made.mlp:
        return None
    layers = range(len(trial.plain.blocks))
    if "blocks.0.hook_mlp_out" not in trial.model.site_table.axes:
        trial.note("no site hook_mlp_out")
        return None
    pairs: list[tuple[Tensor, Tensor]] = []
    for site, muted in (("blocks.0.hook_mlp_out", [0]), ("blocks.*.hook_mlp_out", [*layers])):
        with trial.model.edit({site: ablate()}):
            came = trial.model.logits(trial.rows)
        if fault:
            muted = [0, 1] if len(muted) == 1 else muted[:-1]
        with ExitStack() as stack:
            for layer in muted:
                stack.enter_context(changed(trial.plain.mlp(layer), torch.zeros_like))
            pairs += [(came[i, : len(row)], trial.plain.logits(row)) for i, row in enumerate(trial.rows)]
    return gap(pairs)


def heads(trial: Trial, fault: bool) -> float | None:
    """Logits without what head 1 of every layer says. Fault: without head 0."""
    mixed = trial.plain.mixed_heads()
    sites = [f"blocks.{layer}.attn.hook_z" for layer in mixed]
    if not mixed or not set(sites) <= set(trial.model.site_table.axes):
        return None
    with trial.model.edit({site: only(ablate(), heads=[1]) for site in sites}):
        came = trial.model.logits(trial.rows)
    with trial.plain.muted_heads(mixed, 0 if fault else 1):
        return gap((came[i, : len(row)], trial.plain.logits(row)) for i, row in enumerate(trial.rows))


def generation(trial: Trial, fault: bool) -> float:
    """Greedy text without an edit, token for token. Fault: the reference did not read the prompt's last token."""
    return _text(trial, lambda row: nullcontext(), [row[: len(row) - int(fault)] for row in trial.rows])


def steered_text(trial: Trial, fault: bool) -> float:
    """The same with a direction added behind block 0, at every token. Fault: at the prompt's tokens only."""

    def context(row: list[int]) -> Any:
        return steered(trial.plain, 0, trial.direction, len(row) if fault else None)

    with trial.model.edit({"blocks.0.hook_resid_post": steer(trial.direction)}):
        return _text(trial, context, trial.rows)


def _text(trial: Trial, context: Callable[[list[int]], Any], read: list[list[int]]) -> float:
    """The share of wrong tokens, of prompts alone and in one batch; near ties go on with what was chosen."""
    texts = [(read[i], trial.model.generate([row], max_new_tokens=NEW).ids[0]) for i, row in enumerate(trial.rows)]
    _ = trial.model.tree.bridge  # a model that is declined as a whole is so here, and not in the note below
    try:
        texts += zip(read, trial.model.generate(trial.rows, max_new_tokens=NEW).ids, strict=True)
    except UserError as refused:
        trial.note(f"a batch of texts refused: {refused}")
    wrong = right = 0
    for row, came in texts:
        chosen: list[int] = []
        with context(row):
            for step in trial.plain.steps(row, NEW, chosen):
                if len(came) == len(chosen):
                    wrong += 1  # ended early
                    break
                token = came[len(chosen)]
                tied = step.gap < TIE and token in (step.best, step.second)
                if token != step.best and not tied:
                    wrong += 1
                    break
                right += not tied
                chosen.append(token)
                if token == trial.tokenizer.eos_token_id:
                    break
    return wrong / max(wrong + right, 1) if right + wrong else NEVER


def gradients(trial: Trial, fault: bool) -> float:
    """Slopes of a logit difference with respect to what comes out of block 0. Fault: out of block 1."""

    def metric(values: Tensor, site: Any) -> Tensor:
        ends = site.mask.sum(-1) - 1
        last = values[torch.arange(len(ends)), ends]
        return last[:, 7] - last[:, 8]

    site = "blocks.0.hook_resid_post"
    came = gradients_of(trial.model, trial.rows, site, metric).gradients[site]
    layer = int(fault)
    right = [trial.plain.slope(row, layer, lambda last: last[7] - last[8]) for row in trial.rows]
    return gap((came[i, : len(want)], want) for i, want in enumerate(right))


CHECKS: dict[str, Callable[[Trial, bool], float | None]] = {
    "logits": logits,
    "batch": batch,
    "streams": streams,
    "patterns": patterns,
    "steering": steering,
    "ablation": ablation,
    "heads": heads,
    "text": generation,
    "steered text": steered_text,
    "gradients": gradients,
}


@dataclass(frozen=True)
class Outcome:
    """What one check of one architecture gave.

    `gap`: of the check, and `fault` with its fault planted; None where there was nothing to compare. `refused`: the
    line that interp declined with, `allowed` where the table expects it. `broke`: any other error.
    """

    gap: float | None = None
    fault: float | None = None
    refused: str = ""
    allowed: bool = False
    broke: str = ""

    @property
    def ok(self) -> bool:
        """Nothing to compare, or near enough and the planted fault found, or declined as the table says."""
        if self.broke or self.refused:
            return self.allowed
        return self.gap is None or (self.gap < TOLERANCE and self.finds)

    @property
    def finds(self) -> bool:
        """Was the planted fault found?"""
        return self.fault is not None and self.fault > TOLERANCE

    def __str__(self) -> str:
        if self.broke:
            return "BROKE"
        if self.refused:
            return "refused" if self.allowed else "REFUSED"
        if self.gap is None:
            return "-"
        return f"{self.gap:.2g} OFF" if not self.gap < TOLERANCE else f"{self.gap:.0e}" if self.finds else "BLIND"


@dataclass(frozen=True)
class Verdict:
    """All checks of one architecture, and what was said beside the numbers."""

    name: str
    outcomes: dict[str, Outcome]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Is every outcome right?"""
        return all(outcome.ok for outcome in self.outcomes.values())

    def lines(self) -> list[str]:
        """What went wrong or was declined: one line a reason, with the checks that met it, and the notes."""
        reasons: dict[str, list[str]] = {}
        for what, outcome in self.outcomes.items():
            if reason := outcome.broke or outcome.refused:
                reasons.setdefault(reason, []).append(what)
        why = [f"why: {REFUSED[self.name][1]}"] if self.name in REFUSED and reasons else []
        return [f"{', '.join(checks)}: {reason}" for reason, checks in reasons.items()] + why + list(self.notes)


def check(name: str, tokenizer: PreTrainedTokenizerBase) -> Verdict:
    """Every check of one architecture, each with its planted fault."""
    trial = Trial(name, tokenizer)
    outcomes = {what: _try(trial, what) for what in CHECKS}
    return Verdict(name, outcomes, tuple(trial.notes))


def _try(trial: Trial, what: str) -> Outcome:
    run = CHECKS[what]
    try:
        came = run(trial, False)
        return Outcome() if came is None else Outcome(came, run(trial, True))
    except UserError as refused:
        words, _ = REFUSED.get(trial.name, ("\n", ""))  # no refusal holds a line break
        return Outcome(refused=str(refused), allowed=words in str(refused))
    except Exception as error:  # a traceback is one of the faults that are looked for
        return Outcome(broke=f"{type(error).__name__}: {error}".replace("\n", " ")[:300])

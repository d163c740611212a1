"""Prompts of one token layout: what patching needs, and what makes "position 4" mean the same in all of them.

A template with named slots is filled in, and every filling must take as many tokens as the others:

    laid = lay_out(model, "When {a} and {b} went out, {b} gave it to", [{"a": "Mary", "b": "John"}, …])
    laid.spans["b"]   # ((3, 4), (6, 7)): where the second name stands, both times, as [first, past the last)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Formatter

from interp.errors import UserError
from interp.model.model import Model

Spans = dict[str, tuple[tuple[int, int], ...]]


@dataclass(frozen=True)
class Layout:
    """`prompts` with the same `spans`: where the tokens of each slot stand, once an occurrence.

    `labels` [pos]: what stands at each position, a slot by its name ("{a}", or "{a 1/2}" of two tokens).
    """

    prompts: list[str]
    spans: Spans
    labels: list[str]

    def at(self, slot: str, occurrence: int = 0) -> int:
        """Position of the last token of a slot, where a model gathers what it knows of it."""
        if (
            slot not in self.spans
            or not isinstance(occurrence, int)
            or not -len(self.spans[slot]) <= occurrence < len(self.spans[slot])
        ):
            held = ", ".join(f"{name} ({len(spans)} times)" for name, spans in self.spans.items())
            raise UserError(f"no occurrence {occurrence} of slot {slot!r}; expected one of {held}")
        return self.spans[slot][occurrence][1] - 1


def lay_out(model: Model, template: str, fillings: Sequence[Mapping[str, str]]) -> Layout:
    """Fill `template` once a filling. Raises UserError, with both layouts, where a slot takes another number of tokens.

    A slot is a name in braces; `{{` is a brace. A filling gives every slot a text.
    """
    if not isinstance(template, str) or isinstance(fillings, str | Mapping) or not fillings:
        raise UserError(
            f"lay_out got {template!r:.40} and {fillings!r:.40}; expected a text and a list of {{slot: text}}"
        )
    if odd := next((filling for filling in fillings if not isinstance(filling, Mapping)), None):
        raise UserError(f"the filling {odd!r:.40} is a {type(odd).__name__}; expected {{slot: text}}")
    made = [_fill(template, filling) for filling in fillings]
    found = [_spans(model, prompt, spans) for prompt, spans in made]
    for i, spans in enumerate(found[1:], start=1):
        if spans != found[0]:
            shown = [_shown(model, made[j][0], found[j]) for j in (0, i)]
            raise UserError(
                f"these prompts have two layouts: {shown[0]} and {shown[1]}; choose texts of as many tokens"
            )
    prompts = [prompt for prompt, _ in made]
    lengths = [len(ids) for ids in model.encode(prompts)]
    if len(set(lengths)) > 1:
        i = next(i for i, n in enumerate(lengths) if n != lengths[0])
        shown = [_shown(model, prompts[j], found[j]) for j in (0, i)]
        raise UserError(f"these prompts differ in length: {shown[0]} has {lengths[0]} tokens, {shown[1]} {lengths[i]}")
    return Layout(prompts, found[0], _labels(model, prompts[0], found[0]))


def single_tokens(model: Model, words: Sequence[str], before: str = "I saw") -> list[str]:
    """Those of `words` that are one token, with the space in front, behind `before`."""
    start = model.encode(before)[0]
    return [word for word in words if len(model.encode(f"{before} {word}")[0]) == len(start) + 1]


def _fill(template: str, filling: Mapping[str, str]) -> tuple[str, dict[str, list[tuple[int, int]]]]:
    """The prompt, and which characters of it each slot takes."""
    text, spans = "", dict[str, list[tuple[int, int]]]()
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise UserError(f"template {template!r}: {error}; expected slots such as {{name}}") from error
    for literal, slot, spec, conversion in parts:
        text += literal
        if slot is None:
            continue
        if spec or conversion or not slot.isidentifier():
            raise UserError(f"template {template!r} has the slot {slot!r}; expected a plain name, such as {{name}}")
        if slot not in filling or not isinstance(filling[slot], str) or not filling[slot].strip():
            raise UserError(f"slot {slot!r} got {filling.get(slot)!r} in {dict(filling)}; expected a text")
        spans.setdefault(slot, []).append((len(text), len(text) + len(filling[slot])))
        text += filling[slot]
    if not spans:
        raise UserError(f"template {template!r} has no slot; expected one or more, such as {{name}}")
    if unused := set(filling) - set(spans):
        raise UserError(f"template {template!r} has no slot {', '.join(sorted(unused))}; expected {', '.join(spans)}")
    return text, spans


def _spans(model: Model, prompt: str, characters: Mapping[str, Sequence[tuple[int, int]]]) -> Spans:
    """Which tokens those characters are. Raises UserError where a slot shares a token with what is around it."""
    whole = model.encode(prompt)[0]

    def tokens_before(stop: int) -> int:
        text = prompt[:stop].rstrip()
        ids = model.encode(text)[0] if text else []
        if whole[: len(ids)] != ids:
            raise UserError(
                f"in {prompt!r} a token reaches over the end of {prompt[:stop][-20:]!r}; part slots from what is "
                "around them by spaces"
            )
        return len(ids)

    special = set(model.tokenizer.all_special_ids)

    def span(start: int, stop: int) -> tuple[int, int]:
        first, end = tokens_before(start), tokens_before(stop)
        while first < end - 1 and (whole[first] in special or not model.vocabulary[whole[first]].strip()):
            first += 1  # a BOS, a line end or a blank of its own belongs to the template
        return first, end

    return {slot: tuple(span(start, stop) for start, stop in some) for slot, some in characters.items()}


def _labels(model: Model, prompt: str, spans: Spans) -> list[str]:
    labels = [label.replace(" ", "·") for label in model.str_tokens(prompt)]
    for slot, some in spans.items():
        for start, stop in some:
            for k in range(start, stop):
                labels[k] = f"{{{slot}}}" if stop - start == 1 else f"{{{slot} {k - start + 1}/{stop - start}}}"
    return labels


def _shown(model: Model, prompt: str, spans: Spans) -> str:
    """`When| Mary| and| John` with what each slot takes."""
    taken = ", ".join(f"{slot} {[stop - start for start, stop in some]}" for slot, some in spans.items())
    return f"{'|'.join(model.str_tokens(prompt))!r} (tokens of {taken})"

"""Tables of a fake run, one for every kind of figure, with labels long enough to hurt."""

from __future__ import annotations

import math
import random

from interp.lab.findings import Row

_TEMPLATES = (
    "{name} is the director of {film}",
    "Everyone in the industry knows that the film {film} was directed by nobody other than the celebrated {name}",
    "Q: Who directed {film}? A:",
    "{film}, a film by",
    "The person who made {film} is called",
)
_TRAINED = ("<bos>", "The", " director", " of", " the", " film", " about", " the", " sea", " is")
_REVERSED = ("<bos>", "D", "aph", "ne", " Bar", "rington", " directed", " the", " film", " called")
_NAMES = ("Daphne Barrington", "Uriah Hawthorne", "Preston Ochieng-Featherstonehaugh", "Lena <b>O'Neil</b> & sons")


def spread(rng: random.Random, mean: float, half: float) -> tuple[float, float, float]:
    value = mean + rng.uniform(-half, half)
    return value, value - half, value + half


def cell(names: dict[str, str | int], value: str, spread: tuple[float, float, float]) -> Row:
    return {**names, value: spread[0], "low": spread[1], "high": spread[2]}


def templates_rows(rng: random.Random) -> list[Row]:
    means = {"trained direction": 0.9, "reversed direction": 0.06}
    return [
        cell({"template": t, "direction": d}, "exact match (share of facts)", spread(rng, mean, 0.05))
        for t in _TEMPLATES
        for d, mean in means.items()
    ]


def dictionaries_rows(rng: random.Random) -> list[Row]:
    names = {"topk-4608-k32": 32, "batchtopk-4608-k32-trained-on-the-first-half": 31, "random directions": 32}
    return [
        cell({"dictionary": name, "features active per token": l0}, "loss recovered (share)", spread(rng, mean, 0.01))
        for (name, l0), mean in zip(names.items(), (0.96, 0.91, 0.5), strict=True)
    ]


def groups_rows(rng: random.Random) -> list[Row]:
    groups = ("name to description", "description to name", "both orders in the training data", "never seen")
    return [
        cell({"group of facts": g, "direction": d}, "exact match (share of facts)", spread(rng, 0.5, 0.08))
        for g in groups
        for d in ("trained direction", "reversed direction")
    ]


def matrix_rows(rng: random.Random, size: int) -> list[Row]:
    return [
        {
            "prompt": f"The film number {i}, whose long title goes on and on, was directed by",
            "answer": f"{_NAMES[j % 4]} {j}",
            "double-centred log-prob (nats)": rng.gauss(4.0 if i == j else -0.2, 0.8),
        }
        for i in range(size)
        for j in range(size)
    ]


def contexts_rows(rng: random.Random) -> list[Row]:
    conditions = ("no context", "the fact stated once before the question", "an unrelated fact of the same length")
    return [
        cell({"condition": c, "direction": d}, "exact match (share of facts)", spread(rng, 0.5, 0.1))
        for d in ("trained direction", "reversed direction")
        for c in conditions
    ]


def patching_rows(rng: random.Random, layers: int) -> list[Row]:
    return [
        {
            "direction": direction,
            "layer": layer,
            "position": token,
            "effect (nats)": peak * math.exp(-((i - 8) ** 2) / 2 - ((layer - 12) ** 2) / 40) + rng.gauss(0, 0.08),
        }
        for direction, tokens, peak in (("trained direction", _TRAINED, 3.0), ("reversed direction", _REVERSED, 0.1))
        for layer in range(layers)
        for i, token in enumerate(tokens)
    ]


def layers_rows(rng: random.Random, facets: bool = False) -> list[Row]:
    return [
        cell(
            {"component": component, "direction": direction, "layer": layer},
            "effect of ablation (nats)" if facets else "log-prob gain (nats)",
            spread(rng, scale * math.tanh(max(0, layer - 8) / 6), 0.15),
        )
        for component in (("attention", "MLP", "whole block") if facets else ("residual stream",))
        for direction, scale in (("trained direction", 3.0), ("reversed direction", 0.2))
        for layer in range(30)
    ]


def heads_rows(rng: random.Random) -> list[Row]:
    return [
        {"kind": kind, "layer": layer, "head": head, "score (share of attention)": rng.random() ** 6}
        for kind in ("previous", "duplicate", "induction")
        for layer in range(30)
        for head in range(9)
    ]


def effects_rows(rng: random.Random) -> list[Row]:
    return [
        cell({"part": f"{i}.attn.{i % 9}"}, "direct effect (nats)", spread(rng, 2.0 - i / 3, 0.3)) for i in range(14)
    ]


def lens_rows(rng: random.Random) -> list[Row]:
    words = [" of", " Paris", "</b>", "\n", " a long word", " is"]
    return [
        {"layer": layer, "token": token, "reads": rng.choice(words), "probability": rng.random()}
        for layer in range(12)
        for token in ("<|im_start|>", "Mary", " went", " to", " Paris", ",", " and", " in", " Paris", " she")
    ]


def many_rows(rng: random.Random) -> list[Row]:
    sites = (f"blocks.{layer}.{place}" for layer in range(18) for place in ("hook_attn_out", "hook_mlp_out"))
    return [cell({"site": site}, "effect (nats)", spread(rng, 1.0, 0.4)) for site in sites]


def tokens_rows(rng: random.Random) -> list[Row]:
    text = "In 2019|,| D|aph|ne| Bar|rington| directed| a| film|\n|about| the| <|b|>| tag| and| won| every| prize|."
    return [
        {
            "feature": feature,
            "example": example,
            "token": token,
            "position": position,
            "activation": max(0.0, rng.gauss(9.0 if token in (" D", "aph", "ne") else -1.0, 1.5)),
        }
        for feature in (4013, 17, 2290)
        for example in range(4)
        for position, token in enumerate(text.split("|"))
    ]


def wide_bars_rows(rng: random.Random) -> list[Row]:
    return [cell({"feature": f"feature {i * 37 % 4608}"}, "change of rank", spread(rng, 600, 90)) for i in range(22)]

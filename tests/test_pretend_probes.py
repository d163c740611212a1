"""Every probe on a card, to its end: the answers that the CPU's twin gives, of a tiny model with the bundled words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from know_nothing import know_nothing
from test_know_nothing import answers_of

from interp import Finding, Model, list_probes, load_model

pytestmark = [pytest.mark.pretend, pytest.mark.slow, pytest.mark.usefixtures("trained_once")]
CARD = "cuda:1"  # what is forgotten goes to the first one
ABOUT_ROUNDING = ("temperature-zero",)  # what can be asked there hangs on a product's last bits


@pytest.fixture(scope="module")
def smol() -> Model:
    return load_model("smollm2-135m", "cpu")


def on_a_card(model: Model) -> Model:
    there: Any = model.hf.to(CARD)  # type: ignore[arg-type]
    return Model(there, model.tokenizer, replace(model.provenance, device=CARD), model.bos)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", list_probes())
def test_a_probe_ends_on_a_card_as_on_the_cpu(name: str, smol: Model) -> None:
    here = answers_of(name, know_nothing("random_weights", smol))
    there = answers_of(name, on_a_card(know_nothing("random_weights", smol)))
    assert [one.declared for one in there] == [one.declared for one in here]
    if name not in ABOUT_ROUNDING:
        assert [type(one) for one in there] == [type(one) for one in here]
    assert any(isinstance(one, Finding) for one in there)

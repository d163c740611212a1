"""What a user of TransformerLens or nnsight types first names what it is called here, and that exists."""

from __future__ import annotations

import re

import pytest
from refusals import the_line

from interp import Model, UserError
from interp.model.model import ELSEWHERE


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_name_of_elsewhere_names_a_counterpart_that_exists(tiny_llama: Model, name: str) -> None:
    with pytest.raises(AttributeError) as raised:
        getattr(tiny_llama, name)
    line = str(raised.value)
    assert "\n" not in line
    assert name in line
    named = re.findall(r"model\.(\w+(?:\.\w+)*)", ELSEWHERE[name])
    assert named or name == "reset_hooks"
    for path in named:
        value = tiny_llama
        for step in path.split("."):
            value = getattr(value, step)
    assert not hasattr(tiny_llama, name)


def test_a_name_that_is_nowhere_and_a_call_are_refused(tiny_llama: Model) -> None:
    with pytest.raises(AttributeError, match="'Model' object has no attribute 'run_with_cach'"):
        _ = tiny_llama.run_with_cach  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"model\.logits") as raised:
        tiny_llama("a prompt")
    the_line(raised)


@pytest.mark.parametrize("code", [code for code in ELSEWHERE.values() if code.startswith("model.") and "," not in code])
def test_the_counterpart_runs_as_it_is_written(tiny_llama: Model, code: str) -> None:
    names = {"model": tiny_llama, "prompts": ["The cat"], "prompt": "The cat", "ids": [5, 6]}
    eval(code, names)

"""What a user of TransformerLens or nnsight types first names what it is called here, and that exists."""

from __future__ import annotations

import re

import pytest
import torch
from refusals import the_line

from interp import Model, UserError
from interp.model.elsewhere import ELSEWHERE, FACTORED
from interp.model.hooks import captured


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_name_of_elsewhere_names_a_counterpart_that_exists(tiny_llama: Model, name: str) -> None:
    with pytest.raises(AttributeError) as raised:
        getattr(tiny_llama, name)
    line = str(raised.value)
    assert "\n" not in line
    assert name in line
    named = re.findall(r"\bmodel\.(\w+(?:\.\w+)*)", ELSEWHERE[name])
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


def first_call(text: str) -> str | None:
    """The code that a hint begins with, up to its words; None where it begins with words."""
    code = re.split(r", (?:and|or|of|in|the|which|all|[a-z]+\b by)\b", text)[0].partition(" (")[0].partition("; ")[0]
    try:
        compile(code, "hint", "eval")
    except SyntaxError:
        return None
    return code


HINTS = [code for text in [*ELSEWHERE.values(), *FACTORED.values()] if (code := first_call(text))]
ABOUT_ACTS = [code for text in captured.ELSEWHERE.values() if (code := first_call(text))]


@pytest.mark.parametrize("code", [code for code in HINTS if not re.search(r"folder|interp\.", code)])
def test_the_counterpart_runs_as_it_is_written(tiny_llama: Model, code: str) -> None:
    names = {"model": tiny_llama, "prompts": ["The cat"], "prompt": "The cat", "ids": [5, 6], "text": "a"}
    names |= {"token_id": 5, "device": "cpu", "sites": "blocks.0.hook_mlp_out", "resid": torch.ones(tiny_llama.d_model)}
    names |= {"product": tiny_llama.OV(0, 1), "torch": torch}
    if "cuda" not in code:
        eval(code, names)


@pytest.mark.parametrize("code", [code for code in ABOUT_ACTS if "interp." not in code])
def test_the_counterpart_of_a_cache_runs_as_it_is_written(tiny_llama: Model, code: str) -> None:
    site = "blocks.0.hook_mlp_out"
    names = {"acts": tiny_llama.capture("The cat", site), "site": site, "torch": torch, "device": "cpu"}
    eval(code, names | {"model": tiny_llama, "prompts": "The cat", "resid": torch.ones(tiny_llama.d_model)})


def test_most_hints_are_code_that_runs() -> None:
    """Else the two tests above would run nothing."""
    assert len(HINTS) > 25
    assert len(ABOUT_ACTS) > 5
    assert first_call("model.W_U, or model.unembed(resid)") == "model.W_U"
    assert first_call("with model.edit({site: function}): x") is None


@pytest.mark.parametrize("name", FACTORED)
def test_a_name_of_elsewhere_on_a_product_says_what_it_is_here(tiny_llama: Model, name: str) -> None:
    product = tiny_llama.OV(0, 1)
    with pytest.raises(AttributeError, match=f"a Factored has no {name}; here it is called: "):
        getattr(product, name)
    with pytest.raises(AttributeError, match="'Factored' object has no attribute 'nothing'"):
        _ = product.nothing


def test_the_eigenvalues_that_are_named_are_those_of_the_product(tiny_llama: Model) -> None:
    product = tiny_llama.OV(0, 1)
    thin = torch.linalg.eigvals(product.right @ product.left).abs().sort(descending=True).values
    whole = torch.linalg.eigvals(product.product).abs().sort(descending=True).values
    assert torch.allclose(thin, whole[: len(thin)], atol=1e-3)
    assert float(whole[len(thin) :].max()) < 1e-2 * float(thin[0])


@pytest.mark.parametrize("name", captured.ELSEWHERE)
def test_a_name_of_a_cache_says_what_it_is_here(tiny_llama: Model, name: str) -> None:
    acts = tiny_llama.capture("The cat", "blocks.0.hook_mlp_out")
    with pytest.raises(AttributeError, match=f"Activations have no {name}; here it is called: "):
        getattr(acts, name)
    with pytest.raises(AttributeError, match="'Activations' object has no attribute 'nothing'"):
        _ = acts.nothing

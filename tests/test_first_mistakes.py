"""What a new user types first and gets wrong: one line that says what to type instead, and no traceback of Python's."""

from __future__ import annotations

import ast
import dataclasses
import gc
import importlib
import inspect
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from refusals import the_line
from torch import Tensor

import interp.analysis
import interp.edits
from interp import Model, UserError, ablate, capture_rows, from_transformers, load_model, patch, steer
from interp.analysis import attribute_logits, gradients_of, mean_outputs, patch_sweep, trace_prediction
from interp.analysis.metrics import entropy, log_prob, logit_difference
from interp.edits import ablate_heads
from interp.model.choose import only
from interp.model.edits import compose, project_out, resample, scale
from interp.model.hooks.editing import Edit
from interp.model.hooks.shown import Shown
from interp.model.hooks.where import Where

ROOT = Path(__file__).parents[1]
P = "The capital of France is"
MLP, RESID, Z = "blocks.0.hook_mlp_out", "blocks.1.hook_resid_pre", "blocks.0.attn.hook_z"
MAKERS = sorted(set(interp.edits.__all__) - {"Edit", "Receipt", "Receipts", "Where", "choose", "in_sight"})
METRICS = ["continuation", "divergence", "entropy", "log_prob", "logit_difference", "rank"]


def line_of(call: Callable[[], object]) -> str:
    """The line with which a call is refused."""
    with pytest.raises(UserError) as raised:
        call()
    return the_line(raised)


def enter(model: Model, edits: Any) -> None:
    with model.edit(edits):
        model.logits(P)


# --- one word for what an edit is called with ---


def test_every_text_calls_the_second_parameter_where() -> None:
    """Errors, docstrings and guides."""
    texts = [*ROOT.glob("interp/**/*.py"), *ROOT.glob("interp/*/README.md"), ROOT / "README.md"]
    saying = [
        file.name for file in texts if re.search(r"(activation|gradient|logits), site\b", file.read_text("utf-8"))
    ]
    assert len(texts) > 100
    assert saying == []
    assert re.search(r"(activation|gradient|logits), site\b", "a function (activation, site) -> activation")


# --- factories ---


@pytest.mark.parametrize("name", MAKERS)
def test_a_maker_of_edits_that_was_not_called_is_told_to_be(tiny_gpt2: Model, name: str) -> None:
    maker = getattr(interp.edits, name)
    for use in (
        lambda: enter(tiny_gpt2, {MLP: maker}),
        lambda: enter(tiny_gpt2, maker),
        lambda: enter(tiny_gpt2, {MLP: partial(maker)}),
        lambda: only(maker, pos=-1),
        lambda: compose(maker, scale(0.5)),
        lambda: tiny_gpt2.edit(gradients={MLP: maker}).__enter__(),
    ):
        line = line_of(use)
        assert f"{name} itself" in line
        assert f"call it, e.g. {name}(" in line
        assert "Where(" not in line
    assert not tiny_gpt2.is_edited


def test_every_function_that_gives_edits_is_known_as_a_maker() -> None:
    """Also one that is added to the door later: what returns an edit carries the mark."""
    returning = {
        name
        for name in interp.edits.__all__
        if inspect.isfunction(function := getattr(interp.edits, name))
        and re.search(r"\b(Edit|Change)\b", str(inspect.signature(function).return_annotation))
    }
    assert returning == set(MAKERS)
    assert all(hasattr(getattr(interp.edits, name), "call_it") for name in MAKERS)


def test_what_makers_make_and_functions_of_your_own_are_taken(tiny_gpt2: Model) -> None:
    for edit in (steer(torch.ones(32)), only(ablate(), pos=-1), lambda a, w: a / 2, partial(_scaled, factor=2.0)):
        with tiny_gpt2.edit({MLP: edit}) as receipts:
            tiny_gpt2.last_logits(P)
        assert receipts[MLP].changed


def _scaled(activation: Tensor, where: Where, factor: float) -> Tensor:
    return activation * factor


@pytest.mark.parametrize("name", METRICS)
def test_a_maker_of_metrics_that_was_not_called_is_told_to_be(tiny_gpt2: Model, name: str) -> None:
    maker = getattr(interp.analysis, name)
    assert f"the metric is {name} itself" in line_of(lambda: tiny_gpt2.measure(P, maker))
    assert f"call it, e.g. {name}(" in line_of(lambda: gradients_of(tiny_gpt2, P, MLP, maker))


# --- captures in the place of one tensor, and edits that never fire ---


@pytest.mark.parametrize("maker", [patch, resample, project_out, steer, ablate])
def test_a_whole_capture_in_the_place_of_one_tensor_names_the_tensor(tiny_gpt2: Model, maker: Callable[[Any], Edit]):
    acts = tiny_gpt2.capture(P, [MLP, RESID])
    line = line_of(lambda: maker(acts))
    assert f"acts['{MLP}']" in line
    assert "Activations of 2 sites" in line
    assert ("freeze(acts)" in line) == (maker is patch)
    patch(acts[MLP])  # what it says is taken


@pytest.mark.parametrize("edited", [RESID, "blocks.*.hook_resid_pre"])
def test_a_gradient_edit_behind_what_is_read_says_where_to_read(tiny_gpt2: Model, edited: str) -> None:
    metric, early = log_prob([5]), "blocks.0.hook_resid_pre"
    with pytest.raises(UserError, match="never fired") as raised, tiny_gpt2.edit(gradients={edited: scale(0.5)}):
        gradients_of(tiny_gpt2, P, RESID, metric)
    line = the_line(raised)
    assert f"gradients were read at {RESID}" in line
    assert "read gradients at a site before it" in line
    assert "model.logits" not in line
    never = pytest.raises(UserError, match="a gradient is edited in gradients_of")
    with never, tiny_gpt2.edit(gradients={RESID: scale(0.5)}):  # where no gradient was read at all
        tiny_gpt2.logits(P)
    with tiny_gpt2.edit(gradients={RESID: scale(0.5)}) as receipts:  # and as it says
        gradients_of(tiny_gpt2, P, early, metric)
    assert receipts[f"{RESID} (gradient)"].fired == 1


def test_a_forward_of_the_plain_model_is_said_not_to_be_edited(tiny_gpt2: Model) -> None:
    with pytest.raises(UserError, match=r"model\.hf itself is not edited"), tiny_gpt2.edit({MLP: ablate()}):
        tiny_gpt2.hf(torch.tensor([[1, 2, 3]]))


# --- an edit that nobody entered ---


def test_a_bound_edit_that_was_not_entered_is_warned_of_once_at_the_next_forward(tiny_gpt2: Model) -> None:
    waiting = tiny_gpt2.edit({MLP: ablate()})
    with pytest.warns(UserWarning, match="never entered and edits nothing") as warned:
        tiny_gpt2.loss(P)
    assert warned[0].filename == __file__, "the line that asked the model, not one of this package"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny_gpt2.loss(P)  # not again
        with waiting as receipts:  # and it still can be used
            tiny_gpt2.loss(P)
        del waiting
        gc.collect()
    assert receipts[MLP].fired == 1


def test_where_warnings_are_errors_it_is_one(tiny_gpt2: Model) -> None:
    waiting = tiny_gpt2.edit({MLP: ablate()})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="never entered"):
            tiny_gpt2.last_logits(P)
    del waiting


def test_an_edit_that_was_entered_is_not_warned_of(tiny_gpt2: Model) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        entered = tiny_gpt2.edit({MLP: ablate()})
        with entered, tiny_gpt2.edit({RESID: scale(0.5)}):
            tiny_gpt2.loss(P)
        tiny_gpt2.loss(P)


SCRIPT = """
from interp.model.hooks.tree import HookedTree
waiting = HookedTree(None).editing({}, {})
entered = HookedTree(None).editing({}, {})
try:
    entered.__enter__()  # refused, for it holds no edit
except Exception as error:
    assert "no edit came" in str(error), error
"""


def test_at_the_end_of_a_script_it_is_a_warning_and_no_exception() -> None:
    """Of the one edit that was not entered."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stderr.count("never entered and edits nothing") == 1
    assert "Exception ignored" not in done.stderr


# --- arguments ---


CALLS: list[tuple[Callable[[Model], object], str]] = [
    (lambda m: m.edit(MLP, ablate()), "with model.edit({site: function})"),  # type: ignore[call-arg,arg-type]
    (lambda m: m.edit(fwd_hooks=[]), "with model.edit({site: function})"),  # type: ignore[call-arg]
    (lambda m: m.generate(P, 20), "max_new_tokens=20"),  # type: ignore[call-arg]
    (lambda m: m.generate(P, do_sample=True), "temperature above 0 draws"),  # type: ignore[call-arg]
    (lambda m: m.generate(P, top_p=0.9), "top_k"),  # type: ignore[call-arg]
    (lambda m: m.generate(P, seed=None), "seed=None; expected a whole number"),  # type: ignore[arg-type]
    (lambda m: m.generate(P, temperature="1"), "temperature='1'; expected a number"),  # type: ignore[arg-type]
    (lambda m: m.generate(P, max_new_tokens=2.5), "max_new_tokens=2.5; expected a whole number"),  # type: ignore[arg-type]
    (lambda m: m.generate(P, top_k=True), "top_k=True; expected a whole number"),
    (lambda m: m.generate(P, stop="x"), "an argument 'stop'; expected generate(prompts, *, max_new_tokens=20"),  # type: ignore[call-arg]
    (lambda m: m.loss(P, return_type="loss"), "model.logits gives logits"),  # type: ignore[call-arg]
    (lambda m: m.loss(P, batch_size="a"), "batch_size='a'"),  # type: ignore[arg-type]
    (lambda m: m.logits(P, prepend_bos=True), "model.with_bos"),  # type: ignore[call-arg]
    (lambda m: m.logits(), "got no 'prompts'; expected logits(prompts"),  # type: ignore[call-arg]
    (lambda m: m.capture(P), "got no 'sites'; expected capture(prompts, sites"),  # type: ignore[call-arg]
    (lambda m: m.capture(P, names_filter=MLP), "name the sites"),  # type: ignore[call-arg]
    (lambda m: m.OV(1), "got no 'head'; expected OV(layer, head)"),  # type: ignore[call-arg]
    (lambda m: m.residual("3"), "layer '3' came"),  # type: ignore[arg-type]
    (lambda m: m.measure(P, lambda logits: logits[:, -1, 0]), "the metric does not take (logits, where)"),  # type: ignore[arg-type]
    (lambda m: m.measure(P, 3), "the metric is a int; expected a function"),  # type: ignore[arg-type]
    (lambda m: m.capture(P, MLP)[0], f"such as acts['{MLP}']"),  # type: ignore[index]
    (lambda m: m.capture(P, MLP)["mlp_out", 0], "names no site"),  # type: ignore[index]
    (lambda m: enter(m, {MLP: lambda _, where: where.layer()}), "write it without the brackets: where.layer"),
    (lambda m: ablate_heads([(1, 3)]), "to=mean_outputs(model, prompts)"),
    (lambda m: ablate_heads((1, 3), mean_outputs(m, P)), "expected pairs (layer, head)"),  # type: ignore[arg-type]
    (lambda m: ablate_heads([(7, 0)], mean_outputs(m, P)), "no values for blocks.7.attn.hook_z"),
    (lambda m: trace_prediction(m, P, answer=" Paris"), "model.token_id(text)"),  # type: ignore[arg-type]
    (lambda m: m.capture(P, "transformer.h.1.mlp"), "model.register_site('my_site', 'transformer.h.1.mlp')"),
    (lambda m: m.capture(P, "transformer.h[1].mlp.output"), "register_site('my_site', 'transformer.h.1.mlp')"),
    (lambda m: m.capture(P, "model.transformer.h.1.mlp:input"), "register_site('my_site', 'transformer.h.1.mlp')"),
    (lambda m: m.capture(P, "transformer.h.*.mlp"), "register_site('blocks.*.my_site', 'transformer.h.*.mlp')"),
    (lambda m: load_model(m.hf), "load_model got a GPT2LMHeadModel; expected a name or a path"),  # type: ignore[arg-type]
    (load_model, "from interp.from_transformers(hf_model, tokenizer)"),  # type: ignore[arg-type]
    (lambda m: load_model(None), "load_model got a NoneType"),  # type: ignore[arg-type]
    (lambda m: load_model("smollm2-135m", adapter=m.hf), "adapter= got a GPT2LMHeadModel"),  # type: ignore[arg-type]
    (lambda m: from_transformers("gpt2", m.tokenizer), "is for load_model"),  # type: ignore[arg-type]
    (lambda m: from_transformers(m.hf, "gpt2"), "AutoTokenizer.from_pretrained"),  # type: ignore[arg-type]
    (lambda m: from_transformers(m.hf.transformer, m.tokenizer), "expected a causal language model"),  # type: ignore[union-attr,arg-type]
    (lambda m: from_transformers(m, m.tokenizer), "has its sites already"),  # type: ignore[arg-type]
    (lambda m: from_transformers(m.hf, m.tokenizer, bos="no"), "bos='no'"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("call", "told"), CALLS, ids=[told for _, told in CALLS])
def test_a_call_that_cannot_be_is_one_line(tiny_gpt2: Model, call: Callable[[Model], object], told: str) -> None:
    assert told in line_of(lambda: call(tiny_gpt2))
    assert not tiny_gpt2.is_edited


def test_calls_that_can_be_are_left_alone(tiny_gpt2: Model) -> None:
    """And an error of Python's inside a method is not taken for one of the call."""
    assert tiny_gpt2.generate(prompts=P, max_new_tokens=2, seed=torch.tensor(3), temperature=torch.tensor(1.0)).texts  # type: ignore[arg-type]
    assert inspect.signature(tiny_gpt2.generate).parameters["seed"].default == 0
    assert (tiny_gpt2.generate.__doc__ or "").startswith("Write up to")
    with pytest.raises(TypeError, match="of a metric"):
        tiny_gpt2.measure(P, _broken)
    layers: list[Any] = []
    with tiny_gpt2.edit({"blocks.*.hook_mlp_out": lambda _, where: layers.append(where.layer)}):
        tiny_gpt2.logits(P)
    assert layers == [0, 1]
    assert torch.arange(4)[layers[1]] == 1
    assert "no such site" not in tiny_gpt2.capture(P, MLP)


def _broken(logits: Tensor, where: Where) -> Tensor:
    raise TypeError("of a metric")


def test_a_model_in_memory_is_the_model_that_was_loaded(tiny_gpt2: Model) -> None:
    made = from_transformers(tiny_gpt2.hf, tiny_gpt2.tokenizer, name="mine")
    assert made.hf is tiny_gpt2.hf
    assert (made.provenance.name, made.provenance.location) == ("mine", "memory")
    assert torch.equal(made.last_logits(P), tiny_gpt2.last_logits(P))
    always = from_transformers(tiny_gpt2.hf, tiny_gpt2.tokenizer, bos="always")
    assert always.provenance.bos["policy"] == "always"
    assert len(always.encode(P)[0]) == len(made.encode(P)[0]) + 1


# --- how results are shown ---


def test_results_show_shapes_and_not_a_thousand_numbers(tiny_gpt2: Model) -> None:
    metric = logit_difference([5], [8])
    swept = patch_sweep(tiny_gpt2, [[1, 2, 3]], [[1, 4, 3]], metric, "blocks.*.hook_resid_pre")
    slopes = gradients_of(tiny_gpt2, P, MLP, metric)
    scores = interp.analysis.score_answers(tiny_gpt2, [P], [" Paris", " Rome"])
    wheres: list[str] = []
    with tiny_gpt2.edit({MLP: lambda _, where: wheres.append(repr(where))}):
        tiny_gpt2.logits(P)
    with tiny_gpt2.edit({MLP: scale(0.5)}) as receipts:
        tiny_gpt2.logits(P)
    rows = capture_rows(tiny_gpt2, [P], MLP)
    assert "fired 1x" in repr(receipts)
    for text in (*map(repr, (swept, slopes, scores, rows, receipts, receipts[MLP])), *wheres):
        assert "tensor(" not in text
        assert "\n" not in text
        assert len(text) < 400
    assert "tensor(" in repr(swept.effect), "negative control"
    largest = swept.top()
    assert f"by pos; largest {largest['site']} pos {largest['pos']}" in repr(swept)


def test_the_places_of_a_sweep_come_in_order_and_as_many_as_asked_for(tiny_gpt2: Model) -> None:
    pairs = [[1, 2, 3], [4, 5]], [[1, 6, 3], [7, 5]]
    swept = patch_sweep(tiny_gpt2, *pairs, logit_difference([5, 5], [8, 8]), Z, by=("pos", "head"))
    best = swept.top(3)
    assert len(best) == 3
    assert best[0] == swept.top()
    sizes = [
        abs(float(swept.effect[:, 0, int(spot["pos"]), int(spot["head"])].nanmean())) for spot in swept.top(10_000)
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) == int(swept.effect.nanmean(0).isfinite().sum()), "and none that no pair has"
    for wrong in (0, "all"):
        assert "1 or more" in line_of(lambda wrong=wrong: swept.top(wrong))  # type: ignore[arg-type,call-overload]


def test_no_result_of_a_door_shows_its_tensors() -> None:
    """A dataclass that holds tensors or arrays has a repr of its own, or leaves them out of it."""
    showing = []
    for door in ("interp", "interp.analysis", "interp.edits", "interp.saes", "interp.stats"):
        for name in importlib.import_module(door).__all__:
            kind = getattr(importlib.import_module(door), name)
            if inspect.isclass(kind) and dumps_tensors(kind):
                showing.append(f"{door}.{name}")
    assert showing == []


def dumps_tensors(kind: Any) -> bool:
    shown = [str(f.type) for f in dataclasses.fields(kind) if f.repr] if dataclasses.is_dataclass(kind) else []
    generated = hasattr(kind.__repr__, "__wrapped__")  # dataclass wraps its own one against recursion
    return generated and any(re.search("Tensor|NDArray", text) for text in shown)


def test_a_planted_result_that_shows_its_tensors_is_found() -> None:
    fields = [("values", "Tensor")]
    assert dumps_tensors(dataclasses.make_dataclass("Planted", fields))
    assert not dumps_tensors(dataclasses.make_dataclass("Planted", fields, bases=(Shown,), repr=False))


# --- words ---


def words(source: str) -> list[str]:
    """Every text in a module, docstrings included."""
    return [n.value for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Constant) and isinstance(n.value, str)]


def test_no_text_of_the_package_says_mend() -> None:
    for file in (ROOT / "interp").rglob("*.py"):
        assert not [text for text in words(file.read_text("utf-8")) if re.search(r"\bmend", text)], file
    assert words('f"{x}; mend it"') == ["; mend it"], "negative control"


PROMISED = {
    "interp.edits": "ablate resample scale project_out knock_out steer patch freeze ablate_heads only compose",
    "interp.analysis": "path_patch attribution_patch correlation answer_lead mean_outputs repeated_tokens patch_sweep",
}


@pytest.mark.parametrize(("door", "name"), [(door, name) for door, names in PROMISED.items() for name in names.split()])
def test_a_docstring_names_the_errors(door: str, name: str) -> None:
    """Of functions whose own code raises them."""
    function = getattr(sys.modules[door], name)
    assert "UserError" in inspect.getsource(function) or "check_" in inspect.getsource(function)
    assert "Raises UserError" in (function.__doc__ or "")


def test_attributions_and_entropy_are_still_made(tiny_gpt2: Model) -> None:
    """The marks on makers change nothing of what they make."""
    assert attribute_logits(tiny_gpt2, P, [5], [8]).top(1)
    assert float(tiny_gpt2.measure(P, entropy())) > 0

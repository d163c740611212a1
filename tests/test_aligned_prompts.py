"""Prompts of one layout, and the refusal of those that have two."""

from __future__ import annotations

import pytest

from interp import Model, UserError
from interp.analysis.aligned_prompts import lay_out, single_tokens

TEMPLATE = "When {a} and {b} met, {b} gave it to"


def test_slots_stand_where_the_tokens_say(smol: Model) -> None:
    laid = lay_out(smol, TEMPLATE, [{"a": "Mary", "b": "John"}, {"a": "Tom", "b": "Anna"}])
    assert laid.prompts == ["When Mary and John met, John gave it to", "When Tom and Anna met, Anna gave it to"]
    for prompt, first, second in zip(laid.prompts, (" Mary", " Tom"), (" John", " Anna"), strict=True):
        tokens = smol.str_tokens(prompt)
        assert tokens[laid.at("a")] == first
        assert [tokens[laid.at("b", i)] for i in (0, 1, -1)] == [second] * 3
    assert laid.labels[laid.at("a")] == "{a}"
    assert laid.labels[0] == "When"
    long = lay_out(smol, "In {place} it", [{"place": "Massachusetts Bay"}])
    (start, stop) = long.spans["place"][0]
    assert "".join(smol.str_tokens(long.prompts[0])[start:stop]) == " Massachusetts Bay"
    assert long.labels[start] == f"{{place 1/{stop - start}}}"


def test_two_layouts_are_refused_with_both_shown(smol: Model) -> None:
    with pytest.raises(UserError) as refused:
        lay_out(smol, TEMPLATE, [{"a": "Mary", "b": "John"}, {"a": "Nebuchadnezzar", "b": "John"}])
    assert "'When| Mary| and| John| met|,| John| gave| it| to' (tokens of a [1], b [1, 1])" in str(refused.value)
    assert "uch" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("template", "filling", "told"),
    [
        (TEMPLATE, {"a": "Mary"}, "slot 'b' got None"),
        (TEMPLATE, {"a": "Mary", "b": " "}, "slot 'b' got ' '"),
        (TEMPLATE, {"a": "Mary", "b": "John", "c": "x"}, "has no slot c"),
        ("no slot", {"a": "Mary"}, "has no slot"),
        ("an {open", {}, "expected slots such as"),
        ("{0} is", {"0": "x"}, "expected a plain name"),
        ("{a!r} is", {"a": "x"}, "expected a plain name"),
        ("un{a}able", {"a": "believ"}, "a token reaches over the end"),
    ],
)
def test_what_cannot_be_filled_is_one_line(smol: Model, template: str, filling: dict[str, str], told: str) -> None:
    with pytest.raises(UserError, match=told) as refused:
        lay_out(smol, template, [filling])
    assert "\n" not in str(refused.value)
    laid = lay_out(smol, "{a} is", [{"a": "Mary"}])
    for slot, which in (("b", 0), ("a", 1), ("a", "1")):
        with pytest.raises(UserError, match="expected one of a"):
            laid.at(slot, which)  # type: ignore[arg-type]


def test_words_of_one_token_are_told(smol: Model) -> None:
    assert single_tokens(smol, ["Mary", "Nebuchadnezzar", "John"]) == ["Mary", "John"]


def test_what_stands_before_a_slot_is_no_part_of_it(tiny_gpt2: Model) -> None:
    opened = Model(tiny_gpt2.hf, tiny_gpt2.tokenizer, tiny_gpt2.provenance, bos="always")
    for model, template in ((opened, "{a} went to"), (tiny_gpt2, "Name:\n{a} went"), (tiny_gpt2, "the  {a} went")):
        laid = lay_out(model, template, [{"a": "Mary"}])
        ((start, stop),) = laid.spans["a"]
        ids = model.encode(laid.prompts[0])[0]
        assert str(model.tokenizer.decode(ids[start:stop])).lstrip(" ") == "Mary"
        assert laid.labels[start].startswith("{a")
        assert not any("{a" in label for label in laid.labels[:start])


def test_odd_fillings_are_one_line(smol: Model) -> None:
    for template, fillings in (("{a} is", {"a": "Mary"}), ("{a} is", ["Mary"]), (3, [{"a": "x"}]), ("{a} is", [])):
        with pytest.raises(UserError, match="expected"):
            lay_out(smol, template, fillings)  # type: ignore[arg-type]

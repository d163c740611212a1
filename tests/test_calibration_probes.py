"""The two probes of known mechanisms: yes where it was planted, and not where it was not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from answered import all_answered, findings

from interp import Finding, Lab, Model, NotAsked, UserError
from interp.analysis.aligned_prompts import single_tokens
from interp.analysis.attribution import Attribution
from interp.analysis.heads import ablate_heads, attention_paid, mean_outputs, others_like, sets_like
from interp.lab.discover import load_probe
from interp.model.training import planted as planted_parts
from interp.model.training.planted import plant_induction, plant_nothing
from interp.model.training.small import SmallGPT2, train_small_gpt2
from probes import indirect_object, induction
from probes._indirect_object import controls as indirect_object_controls
from probes._indirect_object import heads, places, sentences
from probes._induction import controls as induction_controls


@pytest.fixture(scope="module", autouse=True)
def planted_once() -> Iterator[None]:
    """The controls make models by seed, whatever model is asked: each is made, and looked into, once."""
    once = cache(plant_induction)
    with pytest.MonkeyPatch.context() as patched:
        for module in (induction_controls, indirect_object_controls):
            patched.setattr(module, "plant_induction", once)
        yield


SHORT = {"length": 10, "sequences": 16, "random_sets": 4}  # a planted model knows 21 words and 24 positions


def reached_by(name: str, model: Model, **flags: Any) -> list[Finding | NotAsked]:
    """Every claim is answered, or said not to be asked."""
    return all_answered(load_probe(name), Lab(model, quick=flags.pop("quick", False)), **flags)


def findings_of(name: str, model: Model, **flags: Any) -> list[Finding]:
    return findings(reached_by(name, model, **flags))


def verdicts(answers: Iterable[Finding]) -> list[str]:
    return [finding.verdict for finding in answers if finding.answers]


@pytest.mark.parametrize("seed", range(3))
def test_induction_is_found_where_it_was_planted(seed: int) -> None:
    planted = plant_induction(seed)
    reached = reached_by("induction", planted.model, **SHORT)
    found = findings(reached)
    assert verdicts(found)[:2] == ["yes", "yes"]
    (silenced,) = [one for one in reached if one.declared == induction.SILENCED.text]
    if isinstance(silenced, NotAsked):
        assert "because 1 other sets of 2 heads can be drawn" in silenced.because
    else:
        assert silenced.verdict != "no", "the planted previous-token head, which is needed too, is among the others"
        assert float(silenced.table[0]["low"] or 0) > 0.5
    assert [f.verdict for f in found if f.claim.startswith("Positive control")] == ["yes", "yes"]
    scores = {
        (row["layer"], row["head"]): float(row["score (share of attention)"] or 0)
        for row in found[1].table
        if row["kind of head"] == "induction"
    }
    assert max(scores, key=scores.__getitem__) == planted.reader


@pytest.mark.parametrize("seed", range(3))
def test_induction_is_not_found_where_nothing_was_planted(seed: int) -> None:
    found = findings_of("induction", plant_nothing(seed), **SHORT)
    assert "yes" not in verdicts(found)
    assert [f.verdict for f in found if f.claim.startswith("Negative control")] == ["yes", "yes"]


@pytest.mark.parametrize("seed", range(3))
def test_a_head_that_copies_from_a_fixed_distance_is_no_induction(seed: int) -> None:
    """It never looks at what the tokens are; copies of one length alone would take it for the mechanism."""
    hf = planted_parts._noise(seed)
    parts: Any = planted_parts
    query = (parts.PLACE, -(SHORT["length"] - 1))
    parts._attend(hf, 2, seed, query=query, key=(parts.PLACE, 0), value=parts.TOKEN, out=parts.NEXT)
    assert "yes" not in verdicts(findings_of("induction", parts._wrap(hf, "copies from a distance"), **SHORT))


def by_mentions(each: float) -> Callable[[Model, list[str]], torch.Tensor]:
    """The last logits of a model that gives a token so much for each time that it stands in the prompt."""

    def last_logits(model: Model, prompts: list[str]) -> torch.Tensor:
        return torch.stack(
            [each * torch.bincount(torch.tensor(ids), minlength=len(model.tokenizer)) for ids in model.encode(prompts)]
        )

    return last_logits


def test_a_head_that_writes_against_every_name_names_nobody(
    sentences_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The repeated name is pushed down twice: the difference between the two grows, whoever gives; neither is named."""
    monkeypatch.setattr(sentences, "AGAIN", ", {again} , {giver}")
    spaced = indirect_object.TEMPLATES[0].replace(",", " ,")
    monkeypatch.setattr(indirect_object, "TEMPLATES", (spaced,))
    made = [sentences.make_sentences(sentences_model, spaced, 4, seed=0)]
    monkeypatch.setattr(Model, "last_logits", by_mentions(-1.0))
    lab, (other, absent) = Lab(sentences_model), sentences.ahead(sentences_model, made, "wrong", "absent")
    preferred = indirect_object._prefers(lab, made, other)
    difference = preferred.table[0]
    assert (difference["giver"], difference["lead of the name (nats)"]) == ("one of the two gives", 1.0)
    assert preferred.estimate.mean == 0.0, "the same where the name is said again and a third person gives"
    assert indirect_object._names(lab, other, absent).estimate.mean == -1.0, "the second claim sees it"


def test_a_model_that_names_anybody_of_the_sentence_names_nobody(
    sentences_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copier: what is mentioned more often is likelier, by 5 nats a mention."""
    monkeypatch.setattr(sentences, "AGAIN", ", {again} , {giver}")
    made = [sentences.make_sentences(sentences_model, indirect_object.TEMPLATES[0].replace(",", " ,"), 4, seed=0)]
    monkeypatch.setattr(Model, "last_logits", by_mentions(5.0))
    named = indirect_object._names(Lab(sentences_model), *sentences.ahead(sentences_model, made, "wrong", "absent"))
    assert "of the third by 5.00" in named.measure
    assert named.estimate.mean == -5.0, "the repeated name is ahead of the right one"


def writes(effect: torch.Tensor) -> list[Attribution]:
    """As if attributed: what each head writes for the right name in each prompt [prompt, head]."""
    n = effect.shape[1]
    names = [f"{i // 9}.attn.{i % 9}" for i in range(n)]
    return [cast(Attribution, SimpleNamespace(parts=names, effect=effect))]


def test_a_few_heads_are_told_from_hundreds_that_all_help_a_little(sentences_model: Model) -> None:
    """270 heads that help alike: the best 14 of them beat the rest on average, and are not the mechanism."""
    generator = torch.Generator().manual_seed(0)
    helps = 0.02 + 0.15 * torch.rand(270, generator=generator)
    diffuse = helps + 0.02 * torch.randn(24, 270, generator=generator)
    chosen = heads.choose_heads(writes(diffuse), 0.05)
    rest = [i for i in range(270) if i not in chosen]
    assert (diffuse[12:, chosen].sum(1) - diffuse[12:, rest].mean(1) * 14).mean() > 0.5, "they do beat the rest"
    found = heads.write_the_name(Lab(sentences_model), writes(diffuse), chosen)
    assert isinstance(found, Finding)
    assert found.verdict == "no"
    assert found.estimate.mean < 0.15
    mixed = torch.randn(270, generator=generator) + 0.02 * torch.randn(24, 270, generator=generator)
    found = heads.write_the_name(Lab(sentences_model), writes(mixed), heads.choose_heads(writes(mixed), 0.05))
    assert isinstance(found, Finding)
    assert found.verdict == "no", "nor are heads of which half write against the name"
    diffuse[:, [7, 90, 200]] += 20.0
    found = heads.write_the_name(Lab(sentences_model), writes(diffuse), heads.choose_heads(writes(diffuse), 0.05))
    assert isinstance(found, Finding)
    assert found.verdict == "yes"
    assert found.estimate.mean > 0.6


def patched(effect: torch.Tensor, total: float) -> Any:
    """As if swept: what patching each head [prompt, head] moves, and everything together."""
    return SimpleNamespace(effect=effect[:, None, None], total=torch.full((len(effect),), total))


def test_heads_that_move_the_answer_a_hair_more_than_others_are_no_mechanism(sentences_model: Model) -> None:
    effect = 0.001 * torch.randn(8, 270, generator=torch.Generator().manual_seed(0))
    chosen = list(range(14))
    effect[:, chosen] += 0.01
    found = heads.move_the_answer(Lab(sentences_model), patched(effect, 4.0), chosen)
    assert isinstance(found, Finding)
    assert found.gap.low > 0, "it is surely more than the others do"
    assert found.verdict == "no", "and next to nothing of 4 nats"
    effect[:, 3] += 2.0
    found = heads.move_the_answer(Lab(sentences_model), patched(effect, 4.0), chosen)
    assert isinstance(found, Finding)
    assert found.verdict == "yes"
    assert found.estimate.mean == pytest.approx(0.535, abs=0.01)
    nothing = heads.move_the_answer(Lab(sentences_model), patched(effect, 0.1), chosen)
    assert isinstance(nothing, NotAsked)
    assert "moves the answer by 0.1 nats" in nothing.because


def test_two_places_of_the_same_prompts_are_compared_prompt_by_prompt(sentences_model: Model) -> None:
    """What one token moves and the other does share a prompt; a prompt that moves everything more is no noise."""
    prompt = 10.0 * torch.arange(8.0)[:, None, None]
    effect = prompt.expand(8, 2, 4).clone()
    effect[:, 0, 1] += 1.0 + 0.01 * torch.arange(8.0)
    effect[:, 1, 3] += 0.01 * torch.arange(8.0)
    swept = cast(Any, SimpleNamespace(effect=effect, sites=["blocks.0.hook_resid_post", "blocks.2.hook_resid_pre"]))
    layout = cast(Any, SimpleNamespace(labels=["a", "b", "c", "d"], at=lambda _: 1))
    model = cast(Any, SimpleNamespace(n_layers=3))
    early, late = places.where_it_stands(Lab(model), swept, layout)
    assert isinstance(early, Finding)
    assert early.verdict == "yes"
    assert 1.0 < early.estimate.low < early.estimate.high < 1.1
    assert isinstance(late, Finding)
    assert late.verdict == "no"


def test_the_heads_silenced_for_comparison_are_others_of_the_same_layers() -> None:
    heads = [(0, 1), (0, 2), (3, 0)]
    drawn = [others_like(heads, (4, 4), seed=seed) for seed in range(20)]
    for some in drawn:
        assert sorted(layer for layer, _ in some) == [0, 0, 3]
        assert len(set(some)) == 3
        assert not set(some) & set(heads)
    assert len({tuple(sorted(some)) for some in drawn}) == 3, "all that there are"
    full = [(0, head) for head in range(4)]
    assert {layer for layer, _ in others_like(full, (4, 4), seed=0)} <= {1, 2, 3}, "a full layer leaves others only"
    with pytest.raises(UserError, match="choose fewer"):
        others_like(full * 2 + [(1, 0)], (2, 4), seed=0)


def test_no_set_of_other_heads_comes_twice() -> None:
    assert len(sets_like([(0, 1), (0, 2), (3, 0)], (4, 4), 8, seed=0)) == 3, "all that there are"
    assert len(sets_like([(0, 0), (1, 0)], (4, 8), 8, seed=0)) == 8
    assert sets_like([(0, 0), (0, 1)], (1, 4), 8, seed=0) in ([[(0, 2), (0, 3)]], [[(0, 3), (0, 2)]])
    assert sets_like([(0, 0), (0, 1)], (1, 3), 8, seed=0) == []


def test_silenced_heads_give_what_they_give_on_average(tiny_gpt2: Model) -> None:
    prompts = [[1, 2, 3, 4], [5, 6, 7]]
    means = mean_outputs(tiny_gpt2, prompts)
    site = "blocks.1.attn.hook_z"
    acts = tiny_gpt2.capture(prompts, site)[site]
    rows = torch.cat([acts[0, 1:4], acts[1, 1:3]])
    torch.testing.assert_close(means[site], rows.mean(0))
    with tiny_gpt2.edit(ablate_heads([(1, 0)], means)):
        edited = tiny_gpt2.capture(prompts, "blocks.1.hook_attn_out")
    assert not torch.allclose(
        edited.rows("blocks.1.hook_attn_out"),
        tiny_gpt2.capture(prompts, "blocks.1.hook_attn_out").rows("blocks.1.hook_attn_out"),
    )


def test_head_scores_of_odd_sequences_are_refused(tiny_gpt2: Model) -> None:
    at = torch.tensor([2])
    for call in (
        lambda: attention_paid(tiny_gpt2, [[1, 2, 3], [4, 5]], at, {"a": at}),
        lambda: attention_paid(tiny_gpt2, [[1, 2, 3]], at, {"a": at + 1}),
        lambda: attention_paid(tiny_gpt2, [[1, 2, 3]], at, {"a": at - 3}),
        lambda: mean_outputs(tiny_gpt2, [[3], [4]]),
    ):
        with pytest.raises(UserError, match="expected"):
            call()


@pytest.fixture(scope="module")
def sentences_model() -> Model:
    """A model that knows the words of the sentences as tokens, and hardly more: nothing is to be found in it."""
    words = " ".join([*sentences.NAMES, *sentences.PLACES, *sentences.THINGS])
    texts = [template.replace("{", "").replace("}", "").replace(",", " ,") for template in indirect_object.TEMPLATES]
    return train_small_gpt2([words, "I saw", *texts], SmallGPT2(steps=3))


def test_an_untrained_model_is_told_to_know_no_indirect_object(
    sentences_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    spaced = tuple(template.replace(",", " ,") for template in indirect_object.TEMPLATES)  # its words part at spaces
    monkeypatch.setattr(indirect_object, "TEMPLATES", spaced)
    monkeypatch.setattr(sentences, "AGAIN", ", {again} , {giver}")  # and it knows no other words
    reached = reached_by("indirect-object", sentences_model, pairs=12, swept=2, quick=True)
    found = findings(reached)
    for claim in (heads.FEW, heads.MOVE):
        (left_out,) = [one for one in reached if one.declared == claim.text]
        assert isinstance(left_out, NotAsked), "nothing is written, or moved, for the right name"
        assert "does not name the right one" in left_out.because
    assert {f.claim[:8] for f in found} >= {"Of the t", "The righ", "Positive"}
    assert found[0].verdict != "yes"
    assert "yes" not in verdicts(found[:2])


def test_prompts_are_balanced_and_differ_in_one_token(smol: Model) -> None:
    made = sentences.make_sentences(smol, indirect_object.TEMPLATES[0], 10, seed=0)
    plain, flipped, third = (smol.encode(some) for some in (made.layout.prompts, made.flipped, made.third))
    giver = made.layout.at("giver")
    for i, ids in enumerate(plain):
        assert [k for k, (a, b) in enumerate(zip(ids, flipped[i], strict=True)) if a != b] == [giver]
        assert ids[giver] == made.wrong[i]
        assert flipped[i][giver] == made.right[i]
        assert [third[i].count(who[i]) for who in (made.right, made.wrong, made.absent)] == [1, 2, 1]
        assert third[i].index(made.absent[i]) > max(k for k, t in enumerate(third[i]) if t == made.wrong[i])
        assert {ids[made.layout.at("first")], ids[made.layout.at("second")]} == {made.right[i], made.wrong[i]}
    first = [ids[made.layout.at("first")] == right for ids, right in zip(plain, made.right, strict=True)]
    assert sum(first) == 5
    assert len(single_tokens(smol, sentences.NAMES)) > 20


@pytest.mark.parametrize(
    ("name", "flags", "told"),
    [
        ("induction", {"length": 3}, "--length 3; expected 10 or more"),
        ("induction", {"sequences": 12}, "--sequences 12; expected 16 or more"),
        ("induction", {"sequences": 8}, "--sequences 8; expected 16 or more"),
        ("induction", {"share": 0.9}, "--share 0.9; expected more than 0, up to 0.4"),
        ("indirect-object", {"pairs": 18}, "--pairs 18; expected a multiple of 12"),
        ("indirect-object", {"pairs": 12, "swept": 8}, "--swept 8; expected an even number up to 2"),
    ],
)
def test_bad_flags_are_one_line(tiny_gpt2: Model, name: str, flags: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        findings_of(name, tiny_gpt2, **flags)


def test_a_tokenizer_without_names_is_told(make_tiny: Callable[..., Model]) -> None:
    with pytest.raises(UserError, match="this model cannot be asked"):
        findings_of("indirect-object", make_tiny("gpt2"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["induction", "indirect-object"])
def test_the_bundled_model_has_both(smol: Model, name: str) -> None:
    found = findings_of(name, smol)
    assert found[0].verdict == "yes"

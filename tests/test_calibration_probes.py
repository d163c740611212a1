"""The two probes of known mechanisms: yes where it was planted, and not where it was not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from answered import drawn

from interp import Finding, Lab, Model, UserError
from interp.analysis.aligned_prompts import single_tokens
from interp.analysis.heads import ablate_heads, attention_paid, mean_outputs, others_like
from interp.lab.discover import load_probe
from interp.model.training import planted as planted_parts
from interp.model.training.planted import plant_induction, plant_nothing
from interp.model.training.small import SmallGPT2, train_small_gpt2
from probes import indirect_object
from probes._indirect_object import sentences

SHORT = {"length": 10, "sequences": 8, "random_sets": 4}  # a planted model knows 21 words and 24 positions


def findings_of(name: str, model: Model, **flags: Any) -> list[Finding]:
    return drawn(load_probe(name)(Lab(model), **flags))


def verdicts(findings: Iterable[Finding]) -> list[str]:
    return [finding.verdict for finding in findings if finding.answers]


@pytest.mark.parametrize("seed", range(3))
def test_induction_is_found_where_it_was_planted(seed: int) -> None:
    planted = plant_induction(seed)
    found = findings_of("induction", planted.model, **SHORT)
    assert verdicts(found)[:2] == ["yes", "yes"]
    assert found[2].verdict != "no", "the planted previous-token head, which is needed too, is among the others"
    assert found[2].estimate.low > 0.5
    scores = {
        (row["layer"], row["head"]): float(row["score (share of attention)"] or 0)
        for row in found[1].table
        if row["kind of head"] == "induction"
    }
    assert max(scores, key=scores.__getitem__) == planted.reader


@pytest.mark.parametrize("seed", range(3))
def test_induction_is_not_found_where_nothing_was_planted(seed: int) -> None:
    assert "yes" not in verdicts(findings_of("induction", plant_nothing(seed), **SHORT))


@pytest.mark.parametrize("seed", range(3))
def test_a_head_that_copies_from_a_fixed_distance_is_no_induction(seed: int) -> None:
    """It never looks at what the tokens are; copies of one length alone would take it for the mechanism."""
    hf = planted_parts._noise(seed)
    parts: Any = planted_parts
    query = (parts.PLACE, -(SHORT["length"] - 1))
    parts._attend(hf, 2, seed, query=query, key=(parts.PLACE, 0), value=parts.TOKEN, out=parts.NEXT)
    assert "yes" not in verdicts(findings_of("induction", parts._wrap(hf, "copies from a distance"), **SHORT))


def test_a_head_that_writes_against_every_name_names_nobody(
    sentences_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The repeated name is pushed down twice: the difference between the two grows, and neither is named."""
    spaced = indirect_object.TEMPLATES[0].replace(",", " ,")
    monkeypatch.setattr(indirect_object, "TEMPLATES", (spaced,))
    made = sentences.make_sentences(sentences_model, spaced, 4, seed=0)
    told: dict[str, float] = {}

    def pushed(right: list[int], wrong: list[int]) -> Any:
        """A metric on the logits of such a model: each token's number of mentions, taken away."""

        def metric(logits: torch.Tensor, site: Any) -> torch.Tensor:
            ids = sentences_model.encode(made.layout.prompts)
            count = [[ids[p].count(who[p]) for who in (right, wrong)] for p in site.prompts.tolist()]
            return torch.tensor([float(b - a) for a, b in count])

        return metric

    monkeypatch.setattr(indirect_object, "logit_difference", pushed)
    for name in ("_prefers", "_names"):
        told[name] = getattr(indirect_object, name)(Lab(sentences_model), [made]).estimate.mean
    assert told["_prefers"] == 1.0
    assert told["_names"] == -1.0, "the second claim sees it"


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
    found = findings_of("indirect-object", sentences_model, pairs=12, swept=2)
    assert {f.claim[:8] for f in found} >= {"Of the t", "The righ", "A few at", "These he", "One grad"}
    assert found[0].verdict != "yes"
    assert "yes" not in verdicts(found[:2])


def test_prompts_are_balanced_and_differ_in_one_token(smol: Model) -> None:
    made = sentences.make_sentences(smol, indirect_object.TEMPLATES[0], 10, seed=0)
    plain, flipped, third = (smol.encode(some) for some in (made.layout.prompts, made.flipped, made.third))
    giver = made.layout.at("giver")
    for i, ids in enumerate(plain):
        for other in (flipped[i], third[i]):
            assert [k for k, (a, b) in enumerate(zip(ids, other, strict=True)) if a != b] == [giver]
        assert ids[giver] == made.wrong[i]
        assert flipped[i][giver] == made.right[i]
        assert third[i][giver] not in (made.right[i], made.wrong[i])
        assert {ids[made.layout.at("first")], ids[made.layout.at("second")]} == {made.right[i], made.wrong[i]}
    first = [ids[made.layout.at("first")] == right for ids, right in zip(plain, made.right, strict=True)]
    assert sum(first) == 5
    assert len(single_tokens(smol, sentences.NAMES)) > 20


@pytest.mark.parametrize(
    ("name", "flags", "told"),
    [
        ("induction", {"length": 3}, "--length 3; expected 10 or more"),
        ("induction", {"sequences": 12}, "--sequences 12; expected a multiple of 8"),
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

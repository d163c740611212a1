"""Claims are fixed before a run: only they are answered, under their rule, and none is passed over in silence."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_run import run_info
from refusals import the_line

from interp import Claim, Control, Estimate, Finding, Lab, NotAsked, UserError, measured, probe, zero
from interp.cli import main
from interp.cli.running import print_left_open
from interp.lab import runner
from interp.lab.probe import Probe
from interp.lab.runner import run_probe
from interp.lab.runs import RunWriter, read_run
from interp.views.report import build_report

RISES = Claim("The loss of {model} rises.", "greater", "nats", margin=0.5, part="Losses", answers=True)
SAME = Claim(
    "Nothing else changes.", "equal", "nats", margin=0.1, measure="Loss.", caveat="Few texts.", arithmetic=True
)
LATE = Claim("It is late.", "less", "nats")
ONE = Estimate(1.0, 0.8, 1.2, 9, "nats")


def declared(answers: Callable[[], Iterator[Any]], *claims: Claim) -> Probe:
    @probe(claims=claims or (RISES, SAME, LATE))
    def declared(lab: Lab) -> Iterator[Finding | NotAsked]:
        """Answer."""
        yield from answers()

    return declared


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setattr(runner, "_info", lambda probe, *_: replace(run_info(), claims=list(probe.claims)))
    return Lab(SimpleNamespace())  # type: ignore[arg-type]


def test_an_answer_carries_the_rule_that_was_declared() -> None:
    finding = RISES.answer(ONE, zero("nats"), about={"model": "gpt2"}, measure="Of 9 texts.")
    assert (finding.claim, finding.declared) == ("The loss of gpt2 rises.", RISES.text)
    assert (finding.expects, finding.margin, finding.part, finding.answers) == ("greater", 0.5, "Losses", True)
    assert finding.verdict == "yes"
    assert finding.rule == RISES.rule
    same = SAME.answer(ONE, zero("nats"), measure="Of 9 texts.", caveat="Short ones.")
    assert (same.measure, same.caveat, same.arithmetic) == ("Loss. Of 9 texts.", "Few texts. Short ones.", True)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Claim("x", "equal", "nats"), "margin"),
        (lambda: Claim("x", "more", "nats"), "expects"),  # type: ignore[arg-type]
        (lambda: Claim("x {", "less", "nats"), "'{'"),
        (lambda: RISES.answer(ONE, zero("nats")), "places"),
        (lambda: SAME.answer(ONE, zero("nats"), about={"model": "gpt2"}), "places"),
        (lambda: Claim("x", "less", "nats", margin=-0.5), "0 or more"),
        (lambda: Claim("x", "less", "nats", margin=float("nan")), "0 or more"),
        (lambda: Claim("x", "less", "nats", margin="0.5"), "0 or more"),  # type: ignore[arg-type]
        (lambda: Claim("x", "less", ""), "unit"),
        (lambda: Claim(" ", "less", "nats"), "text"),
    ],
)
def test_a_declaration_or_an_answer_that_means_nothing_is_refused(make: Callable[[], object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        make()


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: SAME.answer(ONE, Control("x", replace(ONE, unit="bits"))), "its control came in 'bits'"),
        (lambda: SAME.answer(replace(ONE, unit="bits"), zero("bits")), "declared in 'nats'"),
        (lambda: SAME.answer(zero("nats"), ONE), "the Control .* as its estimate"),  # type: ignore[arg-type]
        (lambda: SAME.answer(1.5, zero("nats")), "the float 1.5 as its estimate"),  # type: ignore[arg-type]
        (lambda: SAME.not_asked(" "), "no reason"),
        (lambda: SAME.not_asked(None), "no reason"),  # type: ignore[arg-type]
        (lambda: probe(claims=SAME), "a list of them"),  # type: ignore[arg-type]
        (lambda: probe(claims=["x"]), "a list of them"),  # type: ignore[list-item]
    ],
)
def test_a_mistake_of_who_writes_a_probe_is_one_line(make: Callable[[], object], word: str) -> None:
    with pytest.raises(UserError, match=word) as refused:
        make()
    the_line(refused)


def test_a_flag_without_a_type_is_refused() -> None:
    with pytest.raises(UserError, match="parameter 'nouns' has no type"):

        @probe(claims=[SAME])
        def untyped(lab: Lab, *, nouns=8):  # type: ignore[no-untyped-def]
            yield SAME.answer(ONE, zero("nats"))


def test_a_claim_that_is_answered_twice_is_refused(tmp_path: Path, lab: Lab) -> None:
    one = SAME.answer(ONE, zero("nats"))
    with pytest.raises(UserError, match=r"a second time.*kept 1 finding") as refused:
        run_probe(declared(lambda: iter([one, one]), SAME), lab, {}, tmp_path / "run", command="x")
    the_line(refused)
    each = [RISES.answer(ONE, zero("nats"), about={"model": name}) for name in ("gpt2", "llama")]
    run_probe(declared(lambda: iter(each), RISES), lab, {}, tmp_path / "each", command="x")
    assert len(read_run(tmp_path / "each").findings) == 2


def test_a_saved_run_that_answers_twice_is_damaged(tmp_path: Path, lab: Lab) -> None:
    one = SAME.answer(ONE, zero("nats"))
    folder = run_probe(declared(lambda: iter([one]), SAME), lab, {}, tmp_path / "run", command="x")
    with (folder / "not_asked.jsonl").open("w", encoding="utf-8") as file:
        file.write(json.dumps(asdict(SAME.not_asked("because"))) + "\n")
    with pytest.raises(UserError, match=r"damaged.*a second time"):
        read_run(folder)


@pytest.mark.parametrize("sentence", ["Penguins know French.", "The loss of gpt2 rises. Always."])
def test_another_sentence_in_a_claims_name_is_refused(tmp_path: Path, lab: Lab, sentence: str) -> None:
    lie = replace(RISES.answer(ONE, zero("nats"), about={"model": "gpt2"}), claim=sentence)
    with pytest.raises(UserError, match="in the name of"):
        run_probe(declared(lambda: iter([lie]), RISES), lab, {}, tmp_path / "run", command="x")


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ('"expects": "greater"', '"expects": "less"'),
        ('"margin": 0.5', '"margin": 0.1'),
        ('"answers": true', '"answers": false'),
        ('"claim": "The loss', '"claim": "A loss'),
        ('"level": 0.95', '"level": 0.5'),
    ],
)
def test_a_saved_finding_with_another_rule_than_was_declared_is_damaged(
    tmp_path: Path, lab: Lab, was: str, now: str
) -> None:
    one = RISES.answer(ONE, zero("nats"), about={"model": "gpt2"})
    folder = run_probe(declared(lambda: iter([one]), RISES), lab, {}, tmp_path / "run", command="x")
    file = folder / "findings.jsonl"
    text = file.read_text(encoding="utf-8")
    assert was in text
    file.write_text(text.replace(was, now), encoding="utf-8")
    with pytest.raises(UserError, match="is damaged") as refused:
        read_run(folder)
    the_line(refused)


def test_the_same_claim_twice_is_refused() -> None:
    with pytest.raises(UserError, match="declared twice") as refused:
        declared(lambda: iter(()), LATE, SAME, LATE)
    the_line(refused)


@pytest.mark.parametrize(
    ("odd", "word"),
    [
        (Finding("It is early.", ONE, zero("nats"), "less"), "nearest: 'It is late.'"),
        (replace(LATE, text="It is early.").answer(ONE, zero("nats")), "did not declare"),
        (replace(LATE, text="It is early.").not_asked("because"), "did not declare"),
        (replace(LATE, margin=0.3).answer(ONE, zero("nats")), "margin=0.0"),
        (replace(LATE, expects="greater").answer(ONE, zero("nats")), "expects='less'"),
        (replace(LATE, answers=True).answer(ONE, zero("nats")), "answers=False"),
        (replace(LATE, unit="bits").answer(replace(ONE, unit="bits"), zero("bits")), "unit=.nats"),
    ],
)
def test_what_was_not_declared_is_refused_and_what_came_before_is_kept(
    lab: Lab, tmp_path: Path, odd: Finding | NotAsked, word: str
) -> None:
    def answers() -> Iterator[Any]:
        yield SAME.answer(ONE, zero("nats"))
        yield odd

    with pytest.raises(UserError, match=word) as refused:
        runner.run_probe(declared(answers), lab, {}, tmp_path / "run", command="x")
    the_line(refused)
    assert [finding.claim for finding in read_run(tmp_path / "run").findings] == [SAME.text]


def test_a_probe_that_declares_nothing_may_answer_nothing(lab: Lab, tmp_path: Path) -> None:
    @probe()
    def undeclared(lab: Lab) -> Iterator[Finding]:
        """Answer."""
        yield LATE.answer(ONE, zero("nats"))

    with pytest.raises(UserError, match=r"declares no claims, and answers 'It is late\.'") as refused:
        runner.run_probe(undeclared, lab, {}, tmp_path / "run", command="x")
    the_line(refused)


def test_what_was_not_asked_and_what_was_not_reached_is_on_disk_and_in_the_report(lab: Lab, tmp_path: Path) -> None:
    def answers() -> Iterator[Any]:
        yield SAME.answer(ONE, zero("nats"))
        yield RISES.not_asked("because it has <no> text", about={"model": "gpt2"})

    folder = runner.run_probe(declared(answers), lab, {}, tmp_path / "run", command="x")
    run = read_run(folder)
    assert [(one.claim, one.because) for one in run.not_asked] == [
        ("The loss of gpt2 rises.", "because it has <no> text")
    ]
    assert run.not_reached == [LATE]
    page = build_report([folder], tmp_path / "report.html").read_text()
    for words in (
        "3 declared, 1 not asked, 1 not reached",
        "because it has &lt;no&gt; text",
        "It is late.",
        "arithmetic",
    ):
        assert words in page, words


def test_a_killed_run_says_what_it_did_not_reach(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run", replace(run_info(), claims=[RISES, SAME, LATE]))
    writer.leave_out(LATE.not_asked("because it is early"))
    writer.add(SAME.answer(ONE, zero("nats")))
    with (tmp_path / "run" / "not_asked.jsonl").open("a") as file:
        file.write('{"claim": "cut sho')  # a kill in the middle of a line
    run = read_run(tmp_path / "run")
    assert run.not_reached == [RISES]
    assert len(run.not_asked) == 1


def test_a_run_of_an_earlier_version_is_read_without_claims(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run", run_info())
    writer.add(Finding("x", ONE, zero("nats"), "less"))
    writer.finish("finished", 1.0)
    run = read_run(tmp_path / "run")
    assert (run.not_asked, run.not_reached) == ([], [])


def test_the_claims_of_a_probe_are_printed_without_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["probe", "anatomy", "--claims", "--model", "no-such-model"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert "Without its biases [a model] predicts worse, by 0.05 nats.  [answers]" in told
    assert "yes if the whole interval of the gap lies above 0.05 nats per token" in told
    assert "no if it lies wholly at or below 0.05 nats per token" in told


def test_a_place_that_nothing_filled_is_shown_in_brackets(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert RISES.not_asked("because it has no text").claim == "The loss of [model] rises."
    writer = RunWriter(tmp_path / "run", replace(run_info(), claims=[RISES]))
    print_left_open(writer.folder)
    assert capsys.readouterr().out == "\nnot reached: The loss of [model] rises.\n"
    writer.leave_out(RISES.not_asked("because it has no text"))
    print_left_open(writer.folder)
    assert capsys.readouterr().out == "\nnot asked: The loss of [model] rises, because it has no text\n"


def test_groups_are_estimates_rows_and_pictures() -> None:
    held = measured({("a", 0): [0.1, 0.3], ("a", 1): [0.2, 0.2]}, by=("who", "layer"), value="share", over="text")
    assert held["a", 0].mean == pytest.approx(0.2)
    assert [row["layer"] for row in held.rows(run=3)] == [0, 1]
    at = held["a", 0]
    row = {"who": "a", "layer": 0, "run": 3, "share": at.mean, "low": at.low, "high": at.high}
    assert held.rows(run=3)[0] == row
    figure = held.lines(x="layer", caption="c", chance=0.5)
    assert (figure.x, figure.y, figure.group, figure.low, figure.chance) == ("layer", "share", "who", "low", 0.5)
    assert held.dots(y="who").group == "layer"
    with pytest.raises(KeyError, match="no group"):
        held["b", 0]
    with pytest.raises(KeyError, match="no column"):
        held.bars(y="place")
    with pytest.raises(ValueError, match="expected 2"):
        measured({"a": [1.0, 2.0]}, by=("who", "layer"), value="share", over="text")

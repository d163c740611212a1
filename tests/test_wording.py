"""How numbers, docstrings and terms are put for a reader, and where the line of a verdict is drawn."""

from __future__ import annotations

import pytest
from fake_findings import fake_findings
from fake_run import METHOD

from interp.lab.findings import Estimate
from interp.views import wording
from interp.views.glossary import TERMS, glossary
from interp.views.strip import decision_lines


@pytest.mark.parametrize(
    ("estimate", "shown"),
    [
        ((0.873, 0.81, 0.93), ("0.87", "[0.81, 0.93]")),
        ((-0.0041, -0.0052, -0.003), ("−0.0041", "[−0.0052, −0.0030]")),
        ((1450.0, 1100.0, 1800.0), ("1\u202f450", "[1\u202f100, 1\u202f800]")),
        ((0.0, 0.0, 0.0), ("0", "[0, 0]")),
        ((-0.001, -0.4, 0.4), ("0.00", "[−0.40, 0.40]")),
    ],
)
def test_numbers_have_the_digits_their_interval_supports(
    estimate: tuple[float, float, float], shown: tuple[str, str]
) -> None:
    assert wording.interval(Estimate(*estimate, n=5, unit="nats")) == shown


def test_a_docstring_keeps_its_paragraphs_lists_and_code() -> None:
    html = wording.prose(METHOD)
    assert html.count("<p>") == 4
    assert html.count("<ul><li>") == 1
    assert html.count("<ol><li>") == 1
    assert html.count("<li>") == 4
    assert "<pre><code>&lt;name&gt; is the director of &lt;film&gt;.</code></pre>" in html
    assert "<code>Daphne Barrington directed A Journey Through Time</code>" in html


def test_the_strip_draws_the_line_that_the_verdict_uses() -> None:
    for finding in fake_findings():
        lines, ours = decision_lines(finding), finding.estimate
        whole = {
            "greater": ours.low > lines[0],
            "less": ours.high < lines[0],
            "equal": lines[0] <= ours.low and ours.high <= lines[-1],
        }[finding.expects]
        assert whole == (finding.verdict == "yes")


def test_the_glossary_explains_the_words_that_occur_and_no_others() -> None:
    found = dict(glossary(["The SAE explains more variance", "nats"]))
    assert {"sparse autoencoder", "explained variance", "nats", "control", "interval"} <= set(found)
    assert not {"patching", "logit lens", "tied embeddings"} & set(found)
    assert list(found) == sorted(found, key=str.casefold)
    for term, meaning in glossary([" ".join(TERMS)]):
        assert meaning.endswith((".", "?")), term

"""`interp sae` from training to looking, on a tiny model and a few sentences."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hub import tiny_gpt2 as write_tiny_gpt2

from interp.cli import dispatch
from interp.errors import UserError

SITE = "blocks.0.hook_resid_post"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gpt2(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("corpus") / "text.jsonl"
    texts = [f"The {a} saw a {b} on day {i}." for i in range(9) for a in ("cat", "dog", "fox") for b in ("hat", "sun")]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return file


@pytest.fixture(scope="module")
def sae(model: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("saes") / "sae"
    sizes = ["--width", "64", "--k", "4", "--tokens", "640", "--batch", "128"]
    assert dispatch(["sae", "train", "--out", str(out), "--model", str(model), "--corpus", str(corpus),
                     "--site", SITE, *sizes]) == 0  # fmt: skip
    return out


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert dispatch(list(map(str, arguments))) == 0
    return capsys.readouterr().out


def test_info_is_readable_and_is_json_on_demand(sae: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "sae", "info", sae)
    assert SITE in text
    assert "{" not in text
    assert json.loads(said(capsys, "sae", "info", sae, "--json"))["d_sae"] == 64


def test_a_prompt_shows_its_tokens_with_the_features_that_fire(
    sae: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = said(capsys, "sae", "show", sae, "--prompt", "The cat saw", "--model", model, "--n", 2).splitlines()
    assert "attention sink" in lines[1]
    assert all(line.count("(") == 2 for line in lines[2:-1])
    assert f"interp sae show {sae} --feature" in lines[-1]
    assert len(lines) > 3


def test_a_feature_shows_where_it_is_strongest(
    sae: Path, model: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = said(capsys, "sae", "show", sae, "--prompt", "The cat saw a hat on day 3.", "--model", model, "--n", 1)
    feature = prompt.splitlines()[-2].split()[-2]
    text = said(capsys, "sae", "show", sae, "--feature", feature, "--model", model, "--corpus", corpus, "--n", 3)
    head, _, *examples = text.splitlines()
    assert head.startswith(f"feature {feature} fires on ")
    assert f"tokens of {corpus}, up to" in head, "the text is named"
    strengths = [float(line.split()[0]) for line in examples]
    assert len(strengths) == 3
    assert strengths == sorted(strengths, reverse=True)
    assert head.endswith(f"up to {strengths[0]:.1f}")
    assert all(line.count("[") == 1 for line in examples)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "expected --prompt TEXT .* or --feature NUMBER"),
        (["--prompt", "x", "--feature", "3"], "one of the two"),
        (["--feature", "64"], "this SAE has features 0 to 63"),
        (["--feature", "-1"], "this SAE has features 0 to 63"),
    ],
)
def test_what_cannot_be_shown_is_one_line(sae: Path, model: Path, arguments: list[str], line: str) -> None:
    with pytest.raises(UserError, match=line):
        dispatch(["sae", "show", str(sae), "--model", str(model), *arguments])


def test_the_sites_of_a_model_are_listed_by_kind(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys, "models", "sites", model).splitlines()
    kinds = {line.split()[0]: line.split()[1] for line in lines[1:]}
    assert kinds["blocks.*.hook_resid_post"] == "2"
    assert kinds["hook_embed"] == "1"

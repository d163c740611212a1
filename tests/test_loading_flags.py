"""One set of flags loads a model in every command: --model, --device, --dtype, --quantize, --bos; and the context."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from refusals import the_line
from stores import MIDDLE, TEXTS
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from interp import Model, UserError, load_model, open_store
from interp.activations.plan import fit_context, plan_capture
from interp.activations.token_table import Cut
from interp.cli import capture, dispatch, explore, features_build, models, probe_all, probes, saes, train
from interp.cli.loading import LoadingOptions, RunOptions

COMMANDS = {
    "capture": ["capture", "--corpus", "c.txt", "--sites", MIDDLE, "--out", "out"],
    "probe": ["probe", "dice-roll", "--out", "out"],
    "probe all": ["probe", "all", "--out", "out"],
    "demo": ["demo", "--out", "out"],
    "sae train": ["sae", "train", "--out", "out"],
    "sae show": ["sae", "show", "sae", "--prompt", "x"],
    "sae evaluate": ["sae", "evaluate", "sae", "--out", "out"],
    "features build": ["features", "build", "--out", "out"],
    "parity": ["parity"],
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.txt").write_text("\n\n".join(TEXTS))
    return tmp_path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What each command asks of `load_model`, which then refuses."""
    calls: list[tuple[Any, ...]] = []

    def refuse(*arguments: Any, bos: str, quantize: Any, adapter: Any) -> Model:
        calls.append((*arguments, bos, quantize, adapter))
        raise UserError("seen")

    monkeypatch.setattr("interp.model.loading.load.load_model", refuse)
    return calls


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_with_a_model_hands_the_same_five_flags_on(
    name: str, here: Path, asked: list[tuple[Any, ...]]
) -> None:
    dtype = "fp32" if name == "parity" else "bf16"  # parity takes no other
    flags = ["--model", "m", "--device", "cpu", "--dtype", dtype, "--bos", "always", "--quantize", "4bit"]
    for given in (flags, []):
        with pytest.raises(UserError, match="seen"):
            dispatch([*COMMANDS[name], *given])
    assert asked == [("m", "cpu", dtype, "always", "4bit", None), ("smollm2-135m", None, None, "tokenizer", None, None)]
    with pytest.raises(UserError) as refused:
        dispatch([*COMMANDS[name], "--bos", "sometimes"])
    assert "'sometimes' came for --bos; expected one of 'tokenizer', 'always', 'never'" in the_line(refused)


def test_the_flags_are_written_once() -> None:
    """Each options class takes them from `LoadingOptions`; none has a field of such a name of its own."""
    makers = [capture.CaptureOptions, probes.DemoOptions, probe_all.AllOptions, train.SAETrainOptions]
    makers += [saes.SAEShowOptions, features_build.BuildOptions, explore.ExploreOptions, models.ParityOptions]
    for options in makers:
        assert issubclass(options, LoadingOptions), options
        own = {"device", "dtype", "quantize", "bos"} & set(vars(options).get("__annotations__", {}))
        assert own == ({"dtype"} if options is models.ParityOptions else set()), options  # which takes fp32 alone
    assert issubclass(RunOptions, LoadingOptions)


def test_what_loads_a_model_again_names_only_what_was_set() -> None:
    assert LoadingOptions().repeated() == ["--model", "smollm2-135m"]
    told = LoadingOptions(model="m", device="cpu", dtype="bf16", bos="never").repeated()
    assert told == ["--model", "m", "--device", "cpu", "--dtype", "bf16", "--bos", "never"]


def test_flags_that_would_be_passed_over_are_refused(here: Path, asked: list[tuple[Any, ...]]) -> None:
    (here / "s").mkdir()
    for line, said in (
        (["sae", "train", "--out", "o", "--store", "s", "--bos", "always"], "--bos came with --store"),
        (["sae", "train", "--out", "o", "--store", "s", "--skip-empty"], "--skip-empty came with --store"),
        (["sae", "train", "--out", "o", "--store", "s", "--context", "64"], "--context came with --store"),
        (["sae", "train", "--out", "o", "--text-column", "x"], "--text-column came without --corpus"),
        (["sae", "show", "sae", "--feature", "1", "--skip-empty"], "--skip-empty came without --corpus"),
        (["features", "build", "--out", "o", "--text-column", "x"], "--text-column came without --corpus"),
        (["features", "build", "--out", "o", "--store", "s", "--skip-empty"], "--skip-empty came with --store"),
        (["explore", "index", "--bos", "always"], "--bos came without --model"),
        (["explore", "index", "--quantize", "4bit"], "--quantize came without --model"),
        (["sae", "train", "--out", "o", "--store", "s", "--quantize", "4bit"], "--quantize came with --store"),
        (["explore", "index", "--dtype", "bf16"], "--dtype came without --model"),
    ):
        with pytest.raises(UserError) as refused:
            dispatch(line)
        assert said in the_line(refused)
    assert asked == []


PROBE = '''
"""Is the policy known to a probe?"""
from collections.abc import Iterator
from interp import Claim, Control, Estimate, Finding, Lab, probe

POLICY = Claim("{bos}", "greater", "things")

@probe(claims=[POLICY])
def policy(lab: Lab) -> Iterator[Finding]:
    """Say which."""
    one = Estimate(1, 1, 1, 5, "things")
    yield POLICY.answer(one, Control("zero", Estimate(0, 0, 0, 5, "things")), about={"bos": lab.model.bos})
'''


def test_a_run_has_its_policy_in_its_record(here: Path, tiny_gpt2: Model) -> None:
    (here / "policy.py").write_text(PROBE)
    line = ["probe", "policy.py", "--model", tiny_gpt2.provenance.location, "--bos", "always", "--out", "run"]
    assert dispatch(line) == 0
    record = json.loads((here / "run" / "run.json").read_text())
    assert record["provenance"]["model"]["bos"]["policy"] == "always"
    assert "--bos always" in record["command"]
    assert json.loads((here / "run" / "findings.jsonl").read_text())["claim"] == "always"


def test_an_sae_an_index_and_the_explorer_keep_to_the_policy_of_the_rows(here: Path, tiny_gpt2: Model) -> None:
    where = ["--model", tiny_gpt2.provenance.location]
    assert dispatch(["capture", "--corpus", "c.txt", "--sites", MIDDLE, "--out", "s", *where, "--bos", "always"]) == 0
    flags = ["--arch", "topk", "--width", "64", "--k", "4", "--batch", "64"]
    assert dispatch(["sae", "train", "--store", "s", "--out", "from-store", *flags]) == 0
    line = ["sae", "train", "--corpus", "c.txt", "--site", MIDDLE, "--out", "from-model", *flags, *where]
    assert dispatch([*line, "--bos", "always"]) == 0
    for sae in ("from-store", "from-model"):
        assert json.loads((here / sae / "cfg.json").read_text())["metadata"]["bos_policy"] == "always"
        with pytest.raises(UserError, match="BOS policy"):
            dispatch(["sae", "show", sae, "--prompt", "Mary walked", *where])
        assert dispatch(["sae", "show", sae, "--prompt", "Mary walked", *where, "--bos", "always", "--force"]) == 0
    build = ["features", "build", "--store", "s", "--sae", "from-store", "--out", "index", "--effects", "0", *where]
    with pytest.raises(UserError, match="was captured with --bos always, and the model was loaded with --bos tok"):
        dispatch([*build, "--force"])
    assert dispatch([*build, "--bos", "always", "--force"]) == 0
    with pytest.raises(UserError, match="was built with --bos always"):
        dispatch(["explore", "index", "--sae", "from-store", *where])


# --- the context ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def short(tiny_gpt2: Model, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model of 64 positions."""
    folder = tmp_path_factory.mktemp("short") / "model"
    tokenizer = AutoTokenizer.from_pretrained(tiny_gpt2.provenance.location)
    config = GPT2Config(n_positions=64, n_embd=32, n_layer=2, n_head=4, vocab_size=len(tokenizer))
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


LONG = " ".join(TEXTS)


def test_the_default_context_is_what_the_model_takes_and_more_is_refused(short: str, tiny_gpt2: Model) -> None:
    model = load_model(short, "cpu")
    assert len(model.tokenizer(LONG).input_ids) > 128
    assert (fit_context(model, None), fit_context(model, 64), fit_context(model, 3)) == (64, 64, 3)
    assert fit_context(tiny_gpt2, None) == 128
    with pytest.raises(UserError, match="context 65; this model takes 64 tokens at most"):
        fit_context(model, 65)
    assert plan_capture(model, [LONG], MIDDLE)[0].cut["context"] == 64
    with pytest.raises(UserError, match="context 128; this model takes 64"):
        plan_capture(model, [LONG], MIDDLE, cut=Cut(128))


def test_every_command_reads_a_short_model_by_default_and_refuses_a_longer_context(here: Path, short: str) -> None:
    (here / "long.txt").write_text("\n\n".join([LONG] * 3))
    where = ["--model", short, "--corpus", "long.txt"]
    capture = ["capture", "--sites", MIDDLE, *where]
    train_line = ["sae", "train", "--site", MIDDLE, "--width", "64", "--k", "4", "--batch", "64", *where]
    build = ["features", "build", "--basis", MIDDLE, "--k", "4", "--effects", "0", *where]
    for line in (capture, train_line, build):
        with pytest.raises(UserError, match="context 128; this model takes 64 tokens at most"):
            dispatch([*line, "--out", "refused", "--context", "128"])
        assert not (here / "refused").exists()
    assert dispatch([*capture, "--out", "s"]) == 0
    assert open_store("s").plan.cut["context"] == 64
    assert dispatch([*capture, "--out", "s32", "--context", "32"]) == 0
    assert open_store("s32").plan.cut["context"] == 32
    with pytest.raises(UserError, match="context=0; expected 1 or more"):
        dispatch([*capture, "--out", "refused", "--context", "0"])
    assert dispatch([*train_line, "--out", "sae"]) == 0
    assert dispatch(["sae", "show", "sae", "--feature", "1", "--force", *where]) == 0
    assert dispatch([*build, "--out", "index"]) == 0

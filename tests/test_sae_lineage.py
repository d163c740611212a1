"""An SAE is refused by every model but its own; of one made elsewhere it is said what could not be checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from refusals import the_line
from word_sae import SENTENCES, SITE, change_cfg, with_provenance

from interp.errors import UserError
from interp.model.model import Model
from interp.model.training.small import SmallGPT2, train_small_gpt2
from interp.saes.loading.attach import attach_sae
from interp.saes.loading.sae import load_sae


@pytest.mark.parametrize(
    ("changes", "word", "shown"),
    [
        ({"weights": "sha256:other"}, "model weights", "sha256:other"),
        ({"tokenizer": "sha256:else"}, "tokenizer", "sha256:else"),
        ({"numerics": "folded"}, "numerics (raw Hugging Face weights", "(folded)"),
        ({"bos": {"policy": "never", "tokenizer_adds": True, "token": "<bos>"}}, "BOS policy (tokenizer)", "(never)"),
    ],
)
def test_an_sae_of_another_model_is_refused_and_both_are_shown(
    word_model: Model, word_sae: Path, changes: dict[str, Any], word: str, shown: str
):
    with pytest.raises(UserError) as raised:
        load_sae(word_sae, with_provenance(word_model, **changes))
    assert f"its {word}" in the_line(raised)
    assert shown in str(raised.value)


def test_an_sae_of_another_width_is_refused(word_sae: Path):
    wider = train_small_gpt2(SENTENCES[:20], SmallGPT2(d_model=48, n_heads=2, steps=1))
    with pytest.raises(UserError) as raised:
        load_sae(word_sae, wider)
    assert "d_in=32" in the_line(raised)
    assert "48 wide" in str(raised.value)


@pytest.mark.parametrize(
    ("site", "line"),
    [
        ("blocks.5.hook_resid_post", "unknown site 'blocks.5.hook_resid_post'"),
        ("blocks.*.hook_resid_post", "expected one site with one vector a token"),
        ("blocks.0.attn.hook_z", "expected one site with one vector a token"),
    ],
)
def test_an_sae_of_a_site_that_the_model_lacks_is_refused(word_model: Model, sae_copy: Path, site: str, line: str):
    change_cfg(lambda cfg: cfg["metadata"].update(hook_name=site))(sae_copy)
    with pytest.raises(UserError) as raised:
        load_sae(sae_copy, word_model)
    assert line in the_line(raised)


def _foreign(**metadata: Any) -> Callable[[Path], None]:
    return change_cfg(lambda cfg: cfg.update(metadata={"sae_lens_version": "6.54.0", "hook_name": SITE} | metadata))


def test_of_a_foreign_sae_it_is_said_what_could_not_be_checked(
    word_model: Model, sae_copy: Path, capsys: pytest.CaptureFixture[str]
):
    _foreign()(sae_copy)
    load_sae(sae_copy, word_model)
    said = capsys.readouterr().err
    assert "not checked: model name" in said
    assert all(word in said for word in ("model weights", "tokenizer", "numerics", "BOS policy"))


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"seqpos_slice": [5, None]}, "the positions it was trained on (seqpos_slice=[5, None]; here every"),
        ({"seqpos_slice": [0, 64, 2]}, "(seqpos_slice=[0, 64, 2];"),
        ({"exclude_special_tokens": True}, "(exclude_special_tokens=True;"),
        ({"exclude_special_tokens": [0, 2]}, "(exclude_special_tokens=[0, 2];"),
        ({"seqpos_slice": [1], "exclude_special_tokens": True}, "(seqpos_slice=[1], exclude_special_tokens=True;"),
        ({"seqpos_slice": None}, ""),
        ({"seqpos_slice": [None]}, ""),
        ({"seqpos_slice": [None, None], "exclude_special_tokens": False}, ""),
        ({"exclude_special_tokens": []}, ""),
        ({"exclude_special_tokens": None}, ""),
    ],
)
@pytest.mark.parametrize("attach", [False, True])
def test_tokens_that_training_left_out_are_told_with_what_was_not_checked(
    word_model: Model,
    sae_copy: Path,
    metadata: dict[str, Any],
    said: str,
    attach: bool,
    capsys: pytest.CaptureFixture[str],
):
    """Of an SAE made elsewhere, and of one with our lineage."""
    for place in (change_cfg(lambda cfg: cfg["metadata"].update(metadata)), _foreign(**metadata)):
        place(sae_copy)
        if attach:
            attach_sae(sae_copy, word_model, sample=SENTENCES[1::2])
        else:
            load_sae(sae_copy, word_model)
        lines = [line for line in capsys.readouterr().err.splitlines() if "positions it was trained on" in line]
        assert len(lines) == bool(said)
        assert all(said in line and "not checked: " in line for line in lines)


@pytest.mark.parametrize(
    ("metadata", "line"),
    [
        ({"model_name": "pythia-70m"}, "trained on 'pythia-70m', but the loaded model is 'openai-community/gpt2'"),
        ({"prepend_bos": False}, "trained with prepend_bos=False, but the model's prompts get a BOS token"),
        (
            {"model_from_pretrained_kwargs": {"center_writing_weights": True}},
            "processed weights (center_writing_weights)",
        ),
    ],
)
@pytest.mark.filterwarnings(r"ignore:\s*This SAE has non-empty")  # what is refused here, sae_lens only warns of
def test_a_foreign_sae_is_refused_for_what_can_be_checked(
    word_model: Model, sae_copy: Path, metadata: dict[str, Any], line: str
):
    hub = with_provenance(word_model, source="hub", name="openai-community/gpt2")
    _foreign(model_name="gpt2-small", prepend_bos=True)(sae_copy)
    load_sae(sae_copy, hub)  # negative control: this one fits
    _foreign(**metadata)(sae_copy)
    with pytest.raises(UserError) as raised:
        load_sae(sae_copy, hub)
    assert line in the_line(raised)

"""What stands around a text: BOS, appended EOS, chat, seams of prompt and answer, blanks and bytes, ends of text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

from interp import Model, UserError, ablate, chat_prompt, load_model
from interp.analysis import attribute_logits, logit_difference, score_answers, score_completions
from interp.edits import only
from interp.model.hooks.tokens import appended
from interp.model.provenance import describe_bos

SITE = "blocks.1.hook_resid_post"


def with_tokenizer(model: Model, tokenizer: PreTrainedTokenizerFast) -> Model:
    return Model(model.hf, tokenizer, replace(model.provenance, bos=describe_bos(tokenizer, "tokenizer")))


def wrapped(tokenizer: Any, template: str) -> PreTrainedTokenizerFast:
    """A tokenizer that puts `<s>` and `</s>` around a text by itself, as the template says."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    words = {"<s>": "!", "</s>": '"'}
    for part, stands in words.items():
        template = template.replace(part, stands)
    backend.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(word, backend.token_to_id(word)) for word in words.values()]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="!", eos_token='"')


@pytest.fixture
def appending(tiny_gpt2: Model) -> Model:
    return with_tokenizer(tiny_gpt2, wrapped(tiny_gpt2.tokenizer, "<s> $A </s>"))


def test_an_appended_eos_is_left_out_everywhere(appending: Model, tiny_gpt2: Model) -> None:
    text, end = "The capital of", appending.tokenizer.eos_token_id
    assert appended(appending.tokenizer) == [end]
    assert appending.tokenizer(text).input_ids[-1] == end, "negative control: the tokenizer does append it"
    own = tiny_gpt2.encode([text])[0]
    assert appending.encode([text])[0] == [appending.tokenizer.bos_token_id, *own]
    assert appending.encode([text + '"'])[0][-1] == end, "one that the user typed stays"
    rows = appending.encode([text])
    assert torch.equal(appending.last_logits([text]), appending.last_logits(rows))
    acts = appending.capture([text], SITE)
    assert acts.ids[0].tolist() == rows[0]
    with appending.edit({SITE: only(ablate(), pos=-1)}) as receipts:
        appending.last_logits([text])
    assert receipts[SITE].seen == len(rows[0])
    scores = score_answers(appending, [text], [" a", " the"]).summed
    completed = score_completions(appending, [(text, " a"), (text, " the")]).summed
    assert torch.allclose(scores[0], completed, atol=1e-4)
    assert appending.provenance.bos["dropped"] == ['"']
    assert "dropped" not in tiny_gpt2.provenance.bos


def test_a_bos_added_by_the_tokenizer_is_seen_beside_an_appended_eos(tiny_gpt2: Model) -> None:
    """`adds_bos` must not take an appended token for one in front."""
    behind = with_tokenizer(tiny_gpt2, wrapped(tiny_gpt2.tokenizer, "$A </s>"))
    assert behind.provenance.bos["tokenizer_adds"] is False
    assert behind.encode(["a b"])[0] == tiny_gpt2.encode(["a b"])[0]


def test_every_pair_of_prompt_and_answer_is_tried_at_its_seam(tiny_gpt2: Model) -> None:
    """The first prompt and the first answer alone do not show what the second ones do."""
    known = tiny_gpt2.tokenizer.get_vocab()
    word = next(w for w in known if w.startswith("Ġ") and w[1:].isalpha() and len(w) > 4)
    text = word[1:]
    prompts, answers = ["The capital of France is", f"hello {text[:-2]}"], [" Paris", text[-2:]]
    with pytest.raises(UserError, match="melts into the tokens"):
        score_answers(tiny_gpt2, prompts[1:], answers[1:])
    with pytest.raises(UserError, match="melts into the tokens"):
        score_answers(tiny_gpt2, prompts, answers)
    assert score_answers(tiny_gpt2, prompts[:1], answers[:1]).summed.shape == (1, 1)


def sentencepiece() -> PreTrainedTokenizerFast:
    """As Llama 2's tokenizer.json: blanks as ▁, one put in front of every text, bytes as <0x..>."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁"]
    words += ["▁The", "▁capital", "▁of", "▁is", "▁Paris", "▁France", "of", "▁Rome", *"abcdefghijklmnopqrstuvwxyzTCFPR"]
    vocabulary = {word: i for i, word in enumerate(words)}
    merges = []
    for word in ("▁The", "▁capital", "▁of", "▁is", "▁Paris", "▁France", "of", "▁Rome"):
        for stop in range(1, len(word)):
            for part in (word[:stop], word[: stop + 1]):
                if part not in vocabulary:
                    vocabulary[part] = len(vocabulary)
            if (word[:stop], word[stop]) not in merges:
                merges.append((word[:stop], word[stop]))
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    start = vocabulary["<s>"]
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", start)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture
def pieces(make_tiny: Callable[..., Model]) -> Model:
    model = make_tiny("llama")
    tokenizer = sentencepiece()
    model.hf.resize_token_embeddings(max(len(tokenizer), len(model.tokenizer)))
    return with_tokenizer(model, tokenizer)


def test_tokens_keep_their_blanks_and_bytes_are_told_apart(pieces: Model, tiny_gpt2: Model) -> None:
    assert pieces.str_tokens("The capital of France") == ["<s>", " The", " capital", " of", " France"]
    texts = pieces.vocabulary
    assert texts[pieces.tokenizer.get_vocab()["▁of"]] == " of"
    assert texts[pieces.tokenizer.get_vocab()["of"]] == "of"
    split = pieces.str_tokens("é")[1:]
    assert split[-2:] == ["‹C3›", "‹A9›"]
    emoji = tiny_gpt2.str_tokens("🎉日")
    assert "�" not in "".join(emoji)
    assert len(set(emoji)) > 2
    joined = "".join(emoji)
    told = bytes(int(joined[i + 1 : i + 3], 16) for i in range(len(joined)) if joined[i] == "‹")
    assert told.decode(errors="ignore") in "🎉日"


def test_an_answer_is_what_it_adds_to_the_prompt(pieces: Model) -> None:
    """Alone, " Paris" is ▁ ▁Paris with such a tokenizer; behind a prompt it is one token."""
    assert len(pieces.tokenizer(" Paris", add_special_tokens=False).input_ids) == 2
    scored = score_answers(pieces, ["The capital of France is"], [" Paris", " Rome"])
    assert scored.lengths.tolist() == [1, 1]
    logs = pieces.last_logits(["The capital of France is"])[0].log_softmax(-1)
    own = pieces.tokenizer.get_vocab()["▁Paris"]
    assert float(scored.summed[0, 0]) == pytest.approx(float(logs[own]), abs=1e-4)


def test_equal_right_and_wrong_answers_are_refused(pieces: Model) -> None:
    """Taken as the first id of a tokenizer that puts a BOS in front, every word is that BOS."""
    paris, rome = (pieces.tokenizer(word).input_ids[0] for word in (" Paris", " Rome"))
    assert paris == rome
    for call in (
        lambda: logit_difference([paris], [rome]),
        lambda: attribute_logits(pieces, ["The capital is"], [paris], [rome]),
        lambda: logit_difference([[5, 6]], [[6, 5]]),
    ):
        with pytest.raises(UserError, match="the right and the wrong answer are the same token"):
            call()
    assert logit_difference([[5, 6]], [[6, 7]])


def test_one_token_or_a_refusal_with_the_pieces(tiny_gpt2: Model) -> None:
    model = tiny_gpt2
    word = next(w for w in model.vocabulary if w.startswith(" ") and w[1:].isalpha())
    assert model.vocabulary[model.token_id(word)] == word
    with pytest.raises(UserError, match=r"is \d+ tokens"):
        model.token_id(" zqxj zqxj")
    with pytest.raises(UserError, match="0 tokens"):
        model.token_id("")


def test_generation_ends_at_every_end_that_the_model_names(make_tiny: Callable[..., Model]) -> None:
    model = make_tiny("llama")
    row = model.encode(["The capital of France is"])
    free = model.generate(row, max_new_tokens=6).ids[0]
    stop = free[2]
    model.hf.generation_config.eos_token_id = [model.tokenizer.eos_token_id, stop]  # type: ignore[union-attr]
    assert model.generate(row, max_new_tokens=6).ids[0] == free[: free.index(stop) + 1]
    model.hf.generation_config.eos_token_id = stop  # type: ignore[union-attr]
    assert model.generate(row, max_new_tokens=6).ids[0] == free[: free.index(stop) + 1]
    theirs = model.hf.generate(torch.tensor(row), max_new_tokens=6, do_sample=False, pad_token_id=0)  # type: ignore
    assert theirs[0, len(row[0]) :].tolist() == free[: free.index(stop) + 1]


@pytest.mark.parametrize("temperature", [1e-300, 1e-38, 5e-324])
def test_the_coldest_temperatures_take_the_likeliest(tiny_gpt2: Model, temperature: float) -> None:
    greedy = tiny_gpt2.generate(["The capital"], max_new_tokens=4).ids
    assert tiny_gpt2.generate(["The capital"], max_new_tokens=4, temperature=temperature).ids == greedy


def test_bytes_are_no_prompt(tiny_gpt2: Model) -> None:
    for prompts in ([b"a"], b"a", [bytearray(b"a")]):
        with pytest.raises(UserError, match=r"expected (text|a string)"):
            tiny_gpt2.encode(prompts)  # type: ignore[arg-type]


def test_a_chat_template_that_raises_is_one_line(tiny_gpt2: Model) -> None:
    with pytest.raises(UserError, match="has no chat template"):
        chat_prompt(tiny_gpt2, "Hello")
    tokenizer = wrapped(tiny_gpt2.tokenizer, "$A")
    for template in ("{{ raise_exception('roles must alternate') }}", "{{ messages[7].content }}", "{% if %}"):
        tokenizer.chat_template = template
        with pytest.raises(UserError, match="the chat template of") as refused:
            chat_prompt(with_tokenizer(tiny_gpt2, tokenizer), "Hello")
        assert "\n" not in str(refused.value)


def test_a_policy_is_kept_with_the_model_and_its_record(tiny_gpt2: Model) -> None:
    always = tiny_gpt2.with_bos("always")
    assert always.provenance.bos["policy"] == "always"
    assert tiny_gpt2.provenance.bos["policy"] == "tokenizer"
    assert always.encode("a")[0][0] == always.tokenizer.bos_token_id
    with pytest.raises(UserError, match="bos='sometimes'"):
        load_model(tiny_gpt2.provenance.location, "cpu", bos="sometimes")  # type: ignore[arg-type]

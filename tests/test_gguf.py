"""GGUF files: the right numbers and the right ids, and damaged files in one line."""

from __future__ import annotations

import json
import shutil
import subprocess
from contextlib import suppress
from functools import cache as once
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import regex
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tiny import left_in, tiny_hf, write_gguf
from tokenizers import Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from interp import Model, UserError, load_model

PROMPT = "The capital of France is 42"
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def hf(tiny_gpt2: Model) -> Any:
    return tiny_hf("llama", len(tiny_gpt2.tokenizer))


def test_a_file_gives_the_model_that_was_written(gguf_file: Path, hf: Any, tiny_gpt2: Model):
    model = load_model(gguf_file)
    with torch.no_grad():
        for prompt in (PROMPT, "Mary and John"):
            row = tiny_gpt2.encode(prompt)
            assert tiny_gpt2.tokenizer.decode(model.encode(prompt)[0]) == prompt
            plain = hf(torch.tensor(row)).logits
            assert torch.allclose(model.logits(row), plain, atol=1e-4)
            assert torch.allclose(model.hf(torch.tensor(row)).logits, plain, atol=1e-4)
    assert not hasattr(model.hf.config, "quantization_config")
    assert model.hf.dtype == torch.float32


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q5_1", "F16"])
def test_quantised_weights_are_unpacked_as_ggml_does(tmp_path: Path, hf: Any, tiny_gpt2: Model, kind: str):
    file = write_gguf(tmp_path / "q.gguf", hf, tiny_gpt2.tokenizer, quantized=kind)
    weights = load_model(file).hf.state_dict()
    for name in ("model.layers.1.mlp.up_proj.weight", "model.embed_tokens.weight"):
        wide = hf.state_dict()[name].numpy()
        code = gguf.GGMLQuantizationType[kind]
        expected = gguf.quants.dequantize(gguf.quants.quantize(wide, code), code)
        assert np.allclose(weights[name].numpy(), expected, atol=1e-6)
        assert not np.array_equal(expected, wide), "the format rounds, or this test shows nothing"


def test_provenance_says_which_file(gguf_file: Path, hf: Any, tmp_path: Path, tiny_gpt2: Model):
    first = load_model(gguf_file).provenance
    printed = subprocess.run(["sha256sum", str(gguf_file)], capture_output=True, text=True, check=True).stdout.split()[
        0
    ]
    assert first.weights == f"sha256:{printed}"
    assert (first.source, first.architecture) == ("gguf", "LlamaForCausalLM")
    assert first.parameters == sum(p.numel() for p in hf.parameters())
    assert load_model(gguf_file).provenance == first
    other = write_gguf(tmp_path / "o.gguf", tiny_hf("llama", len(tiny_gpt2.tokenizer), 1), tiny_gpt2.tokenizer)
    assert load_model(other).provenance.weights != first.weights
    assert load_model(other).provenance.tokenizer == first.tokenizer


GPT2_SPLIT = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


@once
def vocabulary(backend: Tokenizer) -> tuple[dict[str, int], dict[tuple[str, str], int]]:
    model = json.loads(backend.to_str())["model"]
    return model["vocab"], {(a, b): i for i, (a, b) in enumerate(model["merges"])}


def ids_by_hand(model: Model, text: str, digits_first: bool) -> list[int]:
    """What llama.cpp does for `smollm`: each digit apart first, then GPT-2's split, then merges inside each piece."""
    vocab, ranks = vocabulary(model.tokenizer.backend_tokenizer)  # type: ignore[attr-defined]
    spelling = bytes_to_unicode()
    pieces = regex.findall(r"\p{N}|\P{N}+", text) if digits_first else [text]
    ids: list[int] = []
    for piece in (word for part in pieces for word in GPT2_SPLIT.findall(part)):
        parts = [spelling[b] for b in piece.encode()]
        while len(parts) > 1:
            rank, i = min((ranks.get((a, b), 1 << 30), i) for i, (a, b) in enumerate(pairwise(parts)))
            if rank == 1 << 30:
                break
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        ids += [vocab[part] for part in parts]
    return ids


text = st.text(st.sampled_from("a bcXé日٣½4\n\t2019'd.,-№ "), max_size=24).filter(bool)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text)
@example("a  4")
@example("In 1984, 2+2=5")
@example(" 42")
@example("x4  y")
@example("½ ٣٤ Ⅷ")
def test_the_bundled_tokenizer_splits_as_llama_cpp_does(smol: Model, text: str):
    assert smol.encode(text)[0] == ids_by_hand(smol, text, digits_first=True)


def test_digits_matter():
    """Negative control: GPT-2's own split gives other ids."""
    assert GPT2_SPLIT.findall("a 1984") == ["a", " 1984"]


@pytest.mark.parametrize(("pre", "digits"), [("smollm", True), ("starcoder", True), ("gpt-2", False)])
def test_the_files_own_way_of_splitting_is_followed(tmp_path: Path, hf: Any, tiny_gpt2: Model, pre: str, digits: bool):
    model = load_model(write_gguf(tmp_path / "t.gguf", hf, tiny_gpt2.tokenizer, pre=pre))
    for sample in (PROMPT, "a  4", "In 1984 the dog does"):
        assert model.encode(sample)[0] == ids_by_hand(model, sample, digits)


def test_a_way_of_splitting_that_nobody_here_knows_is_refused(
    tmp_path: Path, hf: Any, tiny_gpt2: Model, own_cache: Path
):
    """Transformers falls back to GPT-2's split without a word, and every id after it may be wrong."""
    file = write_gguf(tmp_path / "t.gguf", hf, tiny_gpt2.tokenizer, pre="some-new-model")
    with pytest.raises(UserError, match="splits text the 'some-new-model' way, which transformers does not know"):
        load_model(file)
    assert left_in(own_cache) == []
    assert load_model(write_gguf(tmp_path / "q.gguf", hf, tiny_gpt2.tokenizer, pre="qwen2")).encode("a 4")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 1, exclude_max=True))
@example(0.0)
@example(0.999999)
def test_a_truncated_file_is_one_line_and_leaves_nothing(
    gguf_file: Path, tmp_path: Path, own_cache: Path, share: float
):
    whole = gguf_file.read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError) as refused:
        load_model(cut)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 600
    assert left_in(own_cache) == []


@pytest.mark.slow  # a flipped size makes the loader allocate for seconds before it is refused
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 3000), st.integers(0, 255))
def test_a_damaged_header_never_shows_a_traceback(
    gguf_file: Path, tmp_path: Path, own_cache: Path, place: int, byte: int
):
    data = bytearray(gguf_file.read_bytes())
    data[place] = byte
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(data)
    with suppress(UserError):  # most flips are refused, some change nothing that is read
        load_model(damaged).logits([[1, 2, 3]])
    shutil.rmtree(own_cache, ignore_errors=True)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("place", range(1, 8))
def test_a_damaged_length_does_not_read_for_ever(gguf_file: Path, tmp_path: Path, place: int):
    """The package's own reader appends nothing, 2^56 times, when an array's length says so."""
    data = bytearray(gguf_file.read_bytes())
    key = b"tokenizer.ggml.tokens"
    data[data.index(key) + len(key) + 8 + place] = 0x7F  # after the key: two types, then the length
    (tmp_path / "long.gguf").write_bytes(data)
    with pytest.raises(UserError, match="is not a whole GGUF file"):
        load_model(tmp_path / "long.gguf")


@pytest.mark.parametrize("tensor", ["blk.1.ffn_up.weight", "output_norm.weight", "token_embd.weight"])
def test_a_missing_tensor_is_not_made_up(tmp_path: Path, hf: Any, tiny_gpt2: Model, own_cache: Path, tensor: str):
    file = write_gguf(tmp_path / "lacks.gguf", hf, tiny_gpt2.tokenizer, without=tensor)
    with pytest.raises(UserError, match="lacks the weights"):
        load_model(file)
    assert left_in(own_cache) == []


@pytest.mark.parametrize(
    ("name", "content"), [("empty.gguf", b""), ("text.gguf", b"hello\nworld"), ("zeros.gguf", b"\0" * 4096)]
)
def test_what_is_no_gguf_is_one_line(tmp_path: Path, own_cache: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="is not a whole GGUF file"):
        load_model(tmp_path / name)
    with pytest.raises(UserError, match=r"no such file: .*absent\.gguf"):
        load_model(tmp_path / "absent.gguf")
    assert left_in(own_cache) == []

"""A `.gguf` file to a Hugging Face folder (safetensors, tokenizer.json), once; later loads read that folder.

transformers reads GGUF itself but parses the file three times, rebuilds a name table per submodule, and leaves the
model marked as quantised. Here the file is parsed once and the table kept: 5 s instead of 17 s for 135M parameters.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from interp.errors import UserError
from interp.model.loading.cache import new_folder
from interp.model.loading.gguf_header import Header, check_sizes, complete_config, refuse_unread
from interp.model.loading.quiet import first_line, quiet

CONVERTER = "v2"  # part of the cache entry's name: raise it when what is written changes


class _FastReader(gguf.GGUFReader):
    """GGUFReader slices a memmap once per vocabulary entry; plain array views are four times as fast.

    It also reads past the end without noticing, for as long as a damaged length says; this one stops there.
    """

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
        if offset + np.dtype(dtype).itemsize * int(count) > self.data.size:
            raise ValueError(f"it ends at byte {self.data.size:,}, before something that its header announces")
        return super()._get(offset, dtype, count, override_order)

    def _build_fields(self, offs: int, count: int) -> int:
        self.data: Any = self.data.view(np.ndarray)
        return super()._build_fields(offs, count)


def convert_gguf(file: Path, target: Path) -> Path:
    """Dequantise `file` to fp32 and save it as the folder `target`, atomically. Returns `target`.

    Raises UserError for a file that is no GGUF, is truncated, lacks a weight, holds an architecture or a tokenizer
    that transformers cannot read, or does not fit the disk.
    """
    reader = _read(file)
    parameters = sum(int(t.n_elements) for t in reader.tensors)
    with new_folder(target, needs_bytes=4 * parameters + 10_000_000) as folder, _parsed_once(reader), quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                file.parent,
                gguf_file=file.name,
                dtype=torch.float32,
                output_loading_info=True,
                trust_remote_code=False,
            )
            model, info = loaded
        except Exception as error:  # what a foreign file makes transformers raise has no common class
            raise UserError(
                f"{file} cannot be read as a decoder by transformers ({type(error).__name__}: {first_line(error)}); "
                "expected a GGUF of a supported architecture such as llama, qwen2 or gpt2"
            ) from error
        if info["missing_keys"]:  # transformers would make these up at random
            raise UserError(f"{file} lacks the weights {', '.join(sorted(info['missing_keys'])):.200}; fetch it again")
        refuse_unread(model, Header(reader), file)
        complete_config(model.config, Header(reader), file)
        _check_digits(tokenizer, reader, file)
        model.hf_quantizer = None  # the weights are plain fp32 now; these marks would forbid saving them
        model.is_quantized = False
        del model.config.quantization_config
        try:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        except Exception as error:  # safetensors has a class of its own for a full disk
            if type(error).__name__ != "SafetensorError":
                raise
            raise OSError(first_line(error)) from error
    return target


def _read(file: Path) -> gguf.GGUFReader:
    try:
        reader = _FastReader(str(file))
        check_sizes(Header(reader), file)
    except UserError:
        raise
    except Exception as error:  # gguf trusts what it reads: a damaged header can raise anything
        raise UserError(
            f"{file} is not a whole GGUF file ({type(error).__name__}: {first_line(error)}); "
            "it may be truncated: fetch it again"
        ) from error
    size = file.stat().st_size
    for tensor in reader.tensors:
        if int(tensor.data_offset) + int(tensor.n_bytes) > size:
            raise UserError(f"{file} is truncated: tensor {tensor.name} ends past its {size:,} bytes; fetch it again")
    return reader


@contextmanager
def _parsed_once(reader: gguf.GGUFReader) -> Iterator[None]:
    """Let transformers' GGUF loader, which imports both names at call time, reuse one parse and one table a model."""
    original = gguf.GGUFReader, gguf.get_tensor_name_map
    gguf.GGUFReader = lambda *_: reader  # type: ignore[assignment,misc]
    gguf.get_tensor_name_map = functools.cache(original[1])
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = original


# How llama.cpp splits text before merging (llama-vocab.cpp), where transformers falls back to GPT-2's way.
DIGITS_FIRST = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
AS_GPT2 = {"gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion"}


def _check_digits(tokenizer: PreTrainedTokenizerBase, reader: gguf.GGUFReader, file: Path) -> None:
    """SmolLM and its like split every digit off before byte-pair merging; transformers' GGUF reader drops that step.

    Raises UserError for a way of splitting that neither transformers nor this function knows.
    """
    from tokenizers import pre_tokenizers

    backend: Any = tokenizer.backend_tokenizer
    field = reader.fields.get("tokenizer.ggml.pre")
    if field is None or not isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
        return  # transformers knew, or the vocabulary is not byte-level
    name = field.contents()
    if name in DIGITS_FIRST:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    elif name not in AS_GPT2:
        raise UserError(
            f"{file} splits text the {name!r} way, which transformers does not know, so its token ids would be wrong; "
            "load the model from its safetensors folder instead"
        )

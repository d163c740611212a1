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
from interp.model.cache import new_folder


class _FastReader(gguf.GGUFReader):
    """GGUFReader slices a memmap once per vocabulary entry; plain array views are four times as fast."""

    def _build_fields(self, *args: Any) -> int:
        self.data = self.data.view(np.ndarray)
        return super()._build_fields(*args)


def convert_gguf(file: Path, target: Path) -> Path:
    """Dequantise `file` to fp32 and save it as the folder `target`, atomically. Returns `target`.

    Raises UserError for a file that is no GGUF, is truncated, holds an architecture that transformers cannot read,
    or does not fit the disk.
    """
    reader = _read(file)
    parameters = sum(int(t.n_elements) for t in reader.tensors)
    with new_folder(target, needs_bytes=4 * parameters + 10_000_000) as folder, _parsed_once(reader):
        try:
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
            model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        except (ValueError, KeyError, RuntimeError, IndexError, TypeError, ImportError) as error:
            raise UserError(
                f"{file} cannot be read as a decoder by transformers ({type(error).__name__}: {error}); "
                "expected a GGUF of a supported architecture such as llama, qwen2 or gpt2"
            ) from error
        _fix_digits(tokenizer, reader)
        model.hf_quantizer = None  # the weights are plain fp32 now; these marks would forbid saving them
        model.is_quantized = False
        del model.config.quantization_config
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return target


def _read(file: Path) -> gguf.GGUFReader:
    try:
        reader = _FastReader(str(file))
    except (ValueError, IndexError, KeyError, UnicodeDecodeError, OverflowError, MemoryError, OSError) as error:
        raise UserError(
            f"{file} is not a whole GGUF file ({type(error).__name__}: {error}); it may be truncated: fetch it again"
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


def _fix_digits(tokenizer: PreTrainedTokenizerBase, reader: gguf.GGUFReader) -> None:
    """SmolLM splits every digit off before byte-pair merging; transformers' GGUF reader drops that step."""
    from tokenizers import pre_tokenizers

    field = reader.fields.get("tokenizer.ggml.pre")
    if field is not None and field.contents() == "smollm":
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[attr-defined]
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )

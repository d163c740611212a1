"""`load_model`: the bundled model, a hub name, a local folder or a `.gguf` file, to one `Model`.

Nothing is downloaded when a whole copy lies in the cache, and no code from a checkpoint is ever run
(`trust_remote_code=False` is passed: left open, transformers would ask at the terminal).
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from interp.errors import UserError, unknown
from interp.model.hooks.bridge import NUMERICS, check_decoder
from interp.model.hooks.quantized import describe_quantized
from interp.model.hooks.spread import check_in_memory, devices_of
from interp.model.hooks.tokens import BosPolicy
from interp.model.loading.adapter import identify_adapter, load_adapter
from interp.model.loading.bundled import BUNDLED, bundled_folder
from interp.model.loading.cache import cache_dir, is_intact
from interp.model.loading.device import ROOM, card_memory, describe_devices, pick_devices
from interp.model.loading.gguf import CONVERTER, convert_gguf
from interp.model.loading.hub import fetch_from_hub
from interp.model.loading.places import check_adapter, check_model, weight_files
from interp.model.loading.quantize import Quantize, quantization
from interp.model.loading.quiet import first_line, quiet
from interp.model.model import Model
from interp.model.provenance import ModelProvenance, describe_bos, hash_files, hash_tokenizer, library_versions
from interp.paths import expand

DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}


@dataclass(frozen=True)
class Located:
    """A checkpoint on this disk: where, what kind of source, and what identifies its weights."""

    folder: Path
    source: Literal["bundled", "hub", "folder", "gguf"]
    weights: str


def load_model(
    name_or_path: str | Path,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    *,
    bos: BosPolicy = "tokenizer",
    quantize: Quantize | None = None,
    adapter: str | Path | None = None,
) -> Model:
    """Load a decoder with named sites. One that is in memory already is for `from_transformers`.

    `name_or_path`: "smollm2-135m" (bundled), a Hugging Face name ("gpt2", "name@revision"), a folder, a `.gguf` file.
    `device`: CUDA when there is one, else the CPU; said on stderr; "auto" spreads a model over all cards, whole blocks
    on each. `dtype`: fp32 unless told otherwise.
    `bos`: what goes in front of a prompt: what the tokenizer does by itself, always a BOS token, or never.
    `quantize`: "4bit" or "8bit" packs the matrices as they are loaded (needs bitsandbytes); what is computed is in
    `dtype`. Hooks, edits, gradients and stores work on it; matrices (`model.W_Q`) and training do not. With "8bit",
    other prompts of a batch change the last digits: LLM.int8 chooses its outlier columns by the batch.
    `adapter`: the folder of a LoRA adapter as PEFT saves it; its weights are merged into the model's.
    Raises UserError, in one line, for anything that cannot be loaded.
    """
    if bos not in get_args(BosPolicy):
        raise UserError(f"bos={bos!r}; expected one of {', '.join(get_args(BosPolicy))}")
    for what, given in (("load_model", name_or_path), ("adapter=", adapter)):
        if not isinstance(given, str | PathLike) and (given is not None or what == "load_model"):
            raise UserError(
                f"{what} got a {type(given).__name__}; expected a name or a path; a model that is in memory gets its "
                "sites from interp.from_transformers(hf_model, tokenizer), a PeftModel with its adapter"
            )
    name = str(name_or_path)
    if not name.strip():
        raise UserError(
            "the model's name is empty; expected smollm2-135m, a Hugging Face name, a folder or a .gguf file"
        )
    devices = pick_devices(device)
    kind = pick_dtype(dtype)
    if adapter is not None:
        check_adapter(expand(adapter))
        if quantize is not None:
            raise UserError(
                f"adapter= and quantize={quantize!r} came together; an adapter is merged into whole weights; merge it "
                "first: load_model(name, adapter=FOLDER).hf.save_pretrained(OTHER), then load that with quantize"
            )
    located = locate(name)
    packed = quantization(quantize, kind, located.folder, name)
    tokenizer, hf = _load_folder(name, located.folder, kind, {**_placement(devices), **packed})
    weights, adapted = located.weights, None
    if adapter is not None:
        hf, adapted = load_adapter(hf, expand(adapter), name), identify_adapter(expand(adapter))
        name = f"{name} + {expand(adapter).name}"
        both = f"{weights} {adapted['weights']}"
        weights = f"sha256:{hashlib.sha256(both.encode()).hexdigest()}"
    provenance = ModelProvenance(
        name=name,
        source=located.source,
        location=str(located.folder),
        weights=weights,
        tokenizer=hash_tokenizer(tokenizer),
        architecture=type(hf).__name__,
        parameters=hf.num_parameters(),
        dtype=str(kind).removeprefix("torch."),
        device=describe_devices(devices_of(hf)),
        numerics=NUMERICS,
        bos=describe_bos(tokenizer, bos),
        libraries=library_versions(),
        adapter=adapted,
        quantized=describe_quantized(hf),
        described=BUNDLED[str(name_or_path)].described if located.source == "bundled" else "",
    )
    print(
        f"{name}: {provenance.parameters / 1e6:.0f}M parameters on {provenance.device}, {provenance.computes_in}",
        file=sys.stderr,
    )
    return Model(hf, tokenizer, provenance, bos)


def locate(name: str) -> Located:
    """Find or make the checkpoint folder for a name; downloads or converts when there is no other way."""
    if name in BUNDLED:
        folder, weights = bundled_folder(name)
        return Located(folder, "bundled", weights)
    check_model(name)
    path = expand(name)
    if path.suffix == ".gguf":
        weights = hash_files([path])
        folder = cache_dir() / "models" / f"gguf-{weights.removeprefix('sha256:')[:16]}-{CONVERTER}"
        return Located(folder if is_intact(folder) else convert_gguf(path, folder), "gguf", weights)
    if path.is_dir():
        files = [*weight_files(path), path / "config.json"]  # which decides what the weights compute
        return Located(path, "folder", hash_files(files))
    repo, _, revision = name.partition("@")
    try:
        folder, commit = fetch_from_hub(repo, revision or None)
    except UserError as error:
        near = [b for b in BUNDLED if name[:4].casefold() == b[:4].casefold()]
        raise unknown("model", name, near) if near else error from error
    return Located(folder, "hub", f"commit:{commit}")


def pick_dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    """The dtype by name ("fp32", "bf16", "fp16") or as it is; fp32 by default."""
    if dtype is None:
        return torch.float32
    chosen = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if not isinstance(chosen, torch.dtype) or chosen not in DTYPES.values():
        raise unknown("dtype", str(dtype).removeprefix("torch."), DTYPES)
    return chosen


def _load_folder(
    name: str, folder: Path, dtype: torch.dtype, how: dict[str, Any]
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                local_files_only=True,
                output_loading_info=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # so that they are told, and refused below
                **how,
            )
        hf, info = loaded
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{name} does not fit: {first_line(error)}; load it in bf16 (dtype='bf16'), packed (quantize='4bit'), over "
            "all cards (device='auto') or on the CPU (device='cpu')"
        ) from error
    except Exception as error:  # what a foreign folder makes transformers, tokenizers and safetensors raise varies
        if not any(next(folder.glob(name), None) for name in ("tokenizer.*", "*vocab*", "spiece*")):
            raise UserError(f"{name}: {folder} has no tokenizer; expected tokenizer.json beside config.json") from error
        raise UserError(
            f"{name} could not be loaded from {folder} ({type(error).__name__}: {first_line(error)}); "
            "expected a causal language model with its tokenizer, in safetensors"
        ) from error
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # transformers makes up an empty one where the files lack
        raise UserError(f"{name}: {folder} has no tokenizer; expected tokenizer.json beside config.json")
    if info["mismatched_keys"]:
        key, there, expected = sorted(info["mismatched_keys"])[0]
        raise UserError(
            f"{name}: {folder} holds {key} of shape {tuple(there)}, and its config.json makes that {tuple(expected)}; "
            "weights and config belong to different models; fetch the model again"
        )
    made_up = sorted(info["missing_keys"])
    if made_up:
        raise UserError(
            f"{name}: {folder} lacks {len(made_up)} weights of a {type(hf).__name__} ({', '.join(made_up):.120}), "
            "which transformers would fill at random; fetch the model again"
        )
    if info["unexpected_keys"]:
        unused = sorted(info["unexpected_keys"])
        print(f"{name}: {type(hf).__name__} leaves {len(unused)} weights unused: {unused[0]}, …", file=sys.stderr)
    hf = hf.eval()
    check_in_memory(hf)
    if getattr(hf.config, "is_decoder", None) is False:  # BERT and its like; decoders mostly have no such setting
        check_decoder(hf)
    return tokenizer, hf


def _placement(devices: list[torch.device]) -> dict[str, Any]:
    """Where transformers puts the weights as it reads them: there is no copy of them in main memory first."""
    if len(devices) == 1:
        return {"device_map": {"": devices[0]}}
    room = {card.index: int(ROOM * card_memory(card)[0]) for card in devices}
    return {"device_map": "auto", "max_memory": room}

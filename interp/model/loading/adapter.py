"""A LoRA adapter (PEFT): its weights merged into a loaded model, W + scale * B @ A, so that one model is hooked.

Merged here rather than by peft, which is not needed for it: the plain kind of LoRA is one product a matrix. Every
setting in `adapter_config.json` that would change that product, and every tensor that is not one of it, is refused by
name, and nothing is changed before all of it has been checked.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import load_state_dict
from transformers.pytorch_utils import Conv1D

from interp.errors import UserError
from interp.model.loading.places import ADAPTER_FILES, check_adapter
from interp.model.loading.quiet import first_line
from interp.model.provenance import hash_files

CONFIG, WEIGHTS = ADAPTER_FILES
PREFIX = "base_model.model."
KEY = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<part>[AB])(?:\.default)?(?:\.weight)?")
WRAPPED = re.compile(r"\.(?:modules_to_save(?:\.default)?|base_layer)\.")  # of a module that is kept whole
MERGE_ELSEWHERE = "merge it with peft (merge_and_unload), save the model, and load that folder"
READ = {"peft_type", "r", "lora_alpha", "use_rslora", "bias", "target_modules", "modules_to_save", "init_lora_weights"}
NO_EFFECT = {  # on a model that is not trained: where the adapter comes from, how it began, which modules it chose
    *("auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode", "peft_version"),
    *("lora_dropout", "exclude_modules", "layers_to_transform", "layers_pattern", "megatron_core", "megatron_config"),
    *("loftq_config", "eva_config", "runtime_config", "qalora_group_size"),
    "fan_in_fan_out",  # what peft makes of it: a Conv1D is turned, a Linear is not
}
KEEPS_BASE = (True, False, "gaussian", "orthogonal", "eva")  # other ways to begin change the base's own weights


@dataclass(frozen=True)
class _Change:
    """What one matrix becomes: A and B to be multiplied and added, or a tensor in its place."""

    name: str
    weight: Tensor
    a: Tensor | None = None
    b: Tensor | None = None
    turned: bool = False
    whole: Tensor | None = None


def load_adapter(hf: PreTrainedModel, folder: Path | str, name: str) -> PreTrainedModel:
    """Merge the LoRA adapter in `folder` into `hf`, in place, and return it; `name` is the model's, for messages.

    The folder is what peft's `save_pretrained` writes: adapter_config.json and adapter_model.safetensors.
    Raises UserError, in one line and with `hf` as it was, for anything that is not a whole, plain LoRA of this model.
    """
    folder = Path(folder).expanduser()
    config = _read_config(folder)
    pairs, whole = _sorted(_read_tensors(folder), folder)
    changes = [
        *(_low_rank(hf, module, pair, config, folder, name) for module, pair in pairs.items()),
        *(_replaced(hf, key, tensor, folder, name) for key, tensor in whole.items()),
    ]
    _refuse_partial(hf, config, pairs, whole, folder)
    _refuse_tied(hf, changes, folder)
    scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])
    with torch.no_grad():
        for change in changes:
            weight = change.weight
            if change.whole is not None:
                weight.copy_(change.whole)
            elif change.a is not None and change.b is not None:
                wide = torch.promote_types(weight.dtype, torch.float32)  # a sum in bf16 would lose most of the adapter
                delta = change.b.to(weight.device, wide) @ change.a.to(weight.device, wide) * scale
                weight.copy_(weight.to(wide) + (delta.T if change.turned else delta))
    return hf


def identify_adapter(folder: Path | str) -> dict[str, Any]:
    """What identifies an adapter in a record: where it lies, the base it names, its rank, the SHA-256 of its files."""
    folder = Path(folder).expanduser()
    config = _read_config(folder)
    return {
        "folder": str(folder),
        "base": config.get("base_model_name_or_path"),
        "r": config["r"],
        "lora_alpha": config["lora_alpha"],
        "weights": hash_files([folder / CONFIG, folder / WEIGHTS]),
    }


def _read_config(folder: Path) -> dict[str, Any]:
    check_adapter(folder)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{folder / CONFIG} is not JSON ({first_line(error)}); fetch the adapter again") from error
    if not isinstance(config, dict):
        raise UserError(f"{folder / CONFIG} is a JSON {type(config).__name__}; expected an adapter's settings")
    _check_config(config, folder)
    return config


def _check_config(config: dict[str, Any], folder: Path) -> None:
    if (kind := config.get("peft_type")) != "LORA":
        raise UserError(f"{folder} is an adapter of peft_type {kind!r}; expected LORA; {MERGE_ELSEWHERE}")
    r, alpha = config.get("r"), config.get("lora_alpha")
    if isinstance(r, bool) or not isinstance(r, int) or r < 1:
        raise UserError(f"{folder / CONFIG} says r={r!r}; expected a whole number above 0")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise UserError(f"{folder / CONFIG} says lora_alpha={alpha!r}; expected a number")
    if not isinstance(config.get("use_rslora", False), bool):
        raise UserError(f"{folder / CONFIG} says use_rslora={config['use_rslora']!r}; expected true or false")
    plain = {"bias": ("none",), "init_lora_weights": KEEPS_BASE}
    for key, value in config.items():
        unknown = key not in READ | NO_EFFECT and value not in (None, False, {}, [])
        if unknown or (key in plain and value not in plain[key]):
            raise UserError(f"{folder} has {key}={value!r:.60}, which is not merged here; {MERGE_ELSEWHERE}")
    for key, kinds in (("target_modules", str | list), ("modules_to_save", list)):
        value = config.get(key)
        if value is not None and not isinstance(value, kinds):
            raise UserError(f"{folder / CONFIG} says {key}={value!r}; expected names of modules")
    try:
        re.compile(config["target_modules"] if isinstance(config.get("target_modules"), str) else "")
    except re.error as error:
        raise UserError(f"{folder / CONFIG} says target_modules={config['target_modules']!r}: {error}") from error


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] != b"{":
        raise UserError(f"{path} is no safetensors file; expected what peft's save_pretrained writes; fetch it again")
    try:
        tensors = load_state_dict(str(path), map_location="cpu")
    except Exception as error:  # safetensors has a class of its own
        if not isinstance(error, (OSError, ValueError, RuntimeError)) and type(error).__name__ != "SafetensorError":
            raise
        raise UserError(f"{path} cannot be read ({first_line(error)}); fetch the adapter again") from error
    if not tensors:
        raise UserError(f"{path} holds no tensors; expected lora_A and lora_B of every module; save the adapter again")
    for key, tensor in tensors.items():
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{path}: {key} holds numbers that are NaN, infinite or whole; train or fetch it again")
    return tensors


def _sorted(tensors: dict[str, Tensor], folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """LoRA's tensors by module (as "A" and "B", or "embedding_A" …), and those that replace a whole one."""
    pairs: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    for full, tensor in tensors.items():
        key = full.removeprefix(PREFIX)
        if match := KEY.fullmatch(key):
            pairs.setdefault(match["module"], {})[(match["embedding"] or "") + match["part"]] = tensor
        elif "lora_" in key or "trainable_tokens" in key:
            raise UserError(f"{folder} holds {full}, which is not merged here; {MERGE_ELSEWHERE}")
        else:
            whole[WRAPPED.sub(".", key)] = tensor
    for module, pair in pairs.items():
        if set(pair) not in ({"A", "B"}, {"embedding_A", "embedding_B"}):
            raise UserError(f"{folder} holds {' and '.join(sorted(pair))} alone of {module}; fetch the adapter again")
    return pairs, whole


def _low_rank(
    hf: PreTrainedModel, module: str, pair: dict[str, Tensor], config: dict[str, Any], folder: Path, name: str
) -> _Change:
    target = _find_module(hf, module, folder, name)
    embedding = "embedding_A" in pair
    a, b = (pair["embedding_A"], pair["embedding_B"]) if embedding else (pair["A"], pair["B"])
    if not isinstance(target, nn.Embedding if embedding else (nn.Linear, Conv1D)):
        raise UserError(f"{folder} adapts {module}, a {type(target).__name__} in {name}; {MERGE_ELSEWHERE}")
    turned = embedding or isinstance(target, Conv1D)  # these keep their matrix the other way round
    weight = _floating(target.weight, module, name)
    rows, columns = reversed(weight.shape) if turned else weight.shape
    r = config["r"]
    if list(a.shape) != [r, columns] or list(b.shape) != [rows, r]:
        raise UserError(
            f"{folder} has A {list(a.shape)} and B {list(b.shape)} for {module}; expected {[r, columns]} and "
            f"{[rows, r]} in {name}; the adapter belongs to another model ({config.get('base_model_name_or_path')})"
        )
    return _Change(f"{module}.weight", weight, a=a, b=b, turned=turned)


def _replaced(hf: PreTrainedModel, key: str, tensor: Tensor, folder: Path, name: str) -> _Change:
    module, _, part = key.rpartition(".")
    target = _find_module(hf, module, folder, name)
    parameter = dict(target.named_parameters(recurse=False)).get(part)
    if parameter is None:
        raise UserError(f"{folder} holds {key}, which {name} ({type(hf).__name__}) does not have; give its own adapter")
    weight = _floating(parameter, module, name)
    if weight.shape != tensor.shape:
        raise UserError(
            f"{folder} has {key} of shape {list(tensor.shape)}, and {name} has {list(weight.shape)}; the adapter "
            "belongs to another model, or to one whose vocabulary was resized"
        )
    return _Change(key, weight, whole=tensor)


def _find_module(hf: PreTrainedModel, path: str, folder: Path, name: str) -> nn.Module:
    try:
        return hf.get_submodule(path)
    except AttributeError as error:
        raise UserError(
            f"{folder} adapts {path}, which {name} ({type(hf).__name__}) does not have; expected an adapter of "
            "this architecture; load the model that its adapter_config.json names"
        ) from error


def _floating(weight: Any, module: str, name: str) -> Tensor:
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        raise UserError(f"{module} of {name} is quantised, so nothing can be merged into it; load it unquantised")
    return weight


def _refuse_partial(
    hf: PreTrainedModel, config: dict[str, Any], pairs: Iterable[str], whole: Iterable[str], folder: Path
) -> None:
    """Raise UserError where the settings name modules of which the file holds nothing: it was cut, or is another's."""
    modules = [path for path, module in hf.named_modules() if not any(module.children())]
    targets, adapted = config.get("target_modules"), set(pairs)
    if config.get("layers_to_transform") is None and not config.get("exclude_modules") and targets != "all-linear":
        lacking = [path for path in modules if _is_named(path, targets) and path not in adapted]
        if lacking:
            raise UserError(
                f"{folder} holds nothing for {len(lacking)} modules that its settings adapt "
                f"({', '.join(lacking):.90}); fetch or save the adapter again"
            )
    kept = {key.rpartition(".")[0] for key in whole}
    for wanted in config.get("modules_to_save") or []:
        if not any(_is_named(path, [wanted]) for path in kept):
            raise UserError(f"{folder} says modules_to_save {wanted!r} and holds no such weights; save it again")


def _is_named(path: str, names: str | list[str] | None) -> bool:
    """Does peft's way of naming modules mean this one: a pattern for the whole path, or a list of last parts?"""
    if names is None:
        return False
    if isinstance(names, str):
        return re.fullmatch(names, path) is not None
    return any(path == name or path.endswith(f".{name}") for name in names)


def _refuse_tied(hf: PreTrainedModel, changes: list[_Change], folder: Path) -> None:
    """Raise UserError for a matrix that two modules share: the adapter was trained on one of them alone."""
    owners: dict[int, list[str]] = {}
    for path, parameter in hf.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(path)
    for change in changes:
        shared = owners.get(id(change.weight), [])
        differs = change.whole is None or not torch.equal(change.whole.to(change.weight), change.weight)
        if len(shared) > 1 and differs:
            raise UserError(
                f"{folder} adapts {change.name}, which is one matrix with {', '.join(set(shared) - {change.name})}: "
                f"merging would change both; {MERGE_ELSEWHERE}"
            )

"""Paths of models and adapters that a user typed: refused without torch, before seconds of imports."""

from __future__ import annotations

from pathlib import Path

from interp.errors import UserError
from interp.model.loading.bundled import BUNDLED
from interp.paths import expand

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def check_model(name: str) -> None:
    """Raise UserError for a path at which no model can be; a bundled name, or one of a hub, is not looked up."""
    if name in BUNDLED or not name.strip():
        return
    path = expand(name)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UserError(f"no such file: {path}; expected a .gguf file; check the path")
    elif path.is_dir():
        weight_files(path)
    elif path.is_file() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"{name} is not a model; expected a folder with config.json, a .gguf file or a hub name")


def weight_files(folder: Path) -> list[Path]:
    """The weights in a model's folder. Raises UserError for a folder that is none."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json; expected a Hugging Face model folder (save_pretrained)")
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not files:
        raise UserError(f"{folder} has no weights (*.safetensors); expected a Hugging Face model folder")
    return files


def check_adapter(folder: Path) -> None:
    """Raise UserError for a path that is no folder of an adapter, or lacks one of its files."""
    if not folder.is_dir():
        raise UserError(
            f"no folder {folder}; expected an adapter's, with {' and '.join(ADAPTER_FILES)}; check the path"
        )
    for file in ADAPTER_FILES:
        if not (folder / file).is_file():
            held = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
            hint = "a .bin is a pickle, which can run code: save it as safetensors" if ".bin" in held else "check it"
            raise UserError(
                f"{folder} has no {file} (it holds {held}); expected what peft's save_pretrained writes; {hint}"
            )

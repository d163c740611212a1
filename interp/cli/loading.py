"""The flags that commands share: how a model is loaded, how a corpus is read, what every run of a probe has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from interp.errors import UserError
from interp.paths import expand

if TYPE_CHECKING:
    from interp.model.model import Model
    from interp.text.corpus import Corpus

Bos = Literal["tokenizer", "always", "never"]
TEXT = "text"  # the column of a corpus that is read unless another is named
SHIPPED = "smollm2-135m"


@dataclass(kw_only=True)
class LoadingOptions:
    """How a model is loaded: the same flags for every command that loads one and reads text with it."""

    model: Annotated[str, tyro.conf.arg(help="Bundled name, Hugging Face name, folder or .gguf file.")] = SHIPPED
    device: Annotated[
        str | None, tyro.conf.arg(help="cpu, cuda, cuda:1 …, or auto for all cards; by default CUDA when there is one.")
    ] = None
    dtype: Annotated[str | None, tyro.conf.arg(help="What it computes in: fp32 (default), bf16 or fp16.")] = None
    quantize: Annotated[
        Literal["4bit", "8bit"] | None,
        tyro.conf.arg(metavar="{4bit,8bit}", help="Pack its matrices as they are loaded (needs bitsandbytes)."),
    ] = None
    bos: Annotated[
        Bos,
        tyro.conf.arg(
            help="A beginning-of-sequence token in front of a text: as the tokenizer does by itself, always or never."
        ),
    ] = "tokenizer"
    adapter: Annotated[
        Path | None, tyro.conf.arg(help="Folder of a LoRA adapter (PEFT), merged into the model's weights.")
    ] = None

    def __post_init__(self) -> None:
        """Raise UserError for a path at which there is no model, or no adapter, before anything heavy is imported."""
        from interp.model.loading.places import check_adapter, check_model

        if self.model:
            check_model(self.model)
        if self.adapter is not None:
            check_adapter(expand(self.adapter))

    def load(self) -> Model:
        """The model that the flags name; without one the bundled model."""
        from interp.model.loading.load import load_model

        return load_model(
            self.model or SHIPPED,
            self.device,
            self.dtype,
            bos=self.bos,
            quantize=self.quantize,
            adapter=self.adapter,
        )

    def repeated(self) -> list[str]:
        """The flags that load the same model again."""
        told = [("--model", self.model), ("--device", self.device), ("--dtype", self.dtype)]
        told += [("--quantize", self.quantize)]
        told += [("--bos", self.bos)] if self.bos != LoadingOptions.bos else []
        told += [("--adapter", self.adapter)]
        return [part for flag, value in told if value for part in (flag, str(value))]


def refuse_other_bos(cut: Mapping[str, Any], model: Model, what: str) -> None:
    """Raise UserError unless the model has the BOS policy that a plan tells of; `what` opens the message."""
    there, here = cut["bos"]["policy"], model.bos
    if there != here:
        raise UserError(f"{what} with --bos {there}, and the model was loaded with --bos {here}; say --bos {there}")


@dataclass(kw_only=True)
class ReadingOptions:
    """How a corpus is read: which of its columns, and what becomes of rows without text."""

    text_column: Annotated[
        str, tyro.conf.arg(help="The column or field of the corpus that holds the text, such as content.")
    ] = TEXT
    skip_empty: Annotated[
        bool, tyro.conf.arg(help="Leave out rows without text (empty, blank, null) instead of stopping.")
    ] = False

    def open(self, corpus: str | Path) -> Corpus:
        """The corpus, read as the flags say."""
        from interp.text.corpus import open_corpus

        return open_corpus(corpus, skip_empty=self.skip_empty, text_column=self.text_column)

    def refuse_without(self, corpus: str | Path | None) -> None:
        """Raise UserError where the flags came and no corpus did: they would be passed over in silence."""
        given = {"--text-column": self.text_column != TEXT, "--skip-empty": self.skip_empty}
        if corpus is None and any(given.values()):
            flag = next(flag for flag, came in given.items() if came)
            raise UserError(f"{flag} came without --corpus; expected the corpus that it is about; add it")


@dataclass(kw_only=True)
class RunOptions(LoadingOptions):
    """What every run of probes has: the model, the seed, the dictionary, the effort."""

    seed: Annotated[int, tyro.conf.arg(help="Decides everything random.")] = 0
    out: Annotated[
        Path | None, tyro.conf.arg(help="Folder to create for what is found; by default a new one under runs/.")
    ] = None
    sae: Annotated[Path | None, tyro.conf.arg(help="Sparse autoencoder to use, a folder in SAELens' format.")] = None
    quick: Annotated[bool, tyro.conf.arg(help="Fewer repeats, for a first look.")] = False
    full: Annotated[bool, tyro.conf.arg(help="More and larger models to train: for a GPU, or a night.")] = False

    def check(self) -> None:
        """Raise UserError for a seed below 0, and for both efforts at once."""
        from interp.lab.probe import check_effort

        check_effort(self.quick, self.full)
        if self.seed < 0:
            raise UserError(f"--seed {self.seed}; expected 0 or more")

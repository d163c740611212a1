"""Build the SAE that ships with the package. Four commands, each of which goes on where it was stopped:

    python scripts/sample_text.py --out text --documents 20000
    mkdir held_out && mv text/part-00000.jsonl held_out/
    interp capture --corpus text --sites blocks.14.hook_resid_post --store bf16 --out store
    python scripts/build_sae.py --store store --held-out held_out/part-00000.jsonl --out data/saes/smollm2-135m

The last one trains, rounds the weights to fp16 (cfg.json says float32: they are loaded as that), measures what was
rounded on held-out text, on which no step was taken, and writes a model card beside it.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import tyro

from interp import load_model, open_store
from interp.activations.rows import capture_rows
from interp.cli.terminal import shown_progress
from interp.features.read.examples import interesting, top_examples
from interp.model.loading.cache import new_folder
from interp.model.model import Model
from interp.saes.evaluate import SAEReport, evaluate_saes, random_sae_like
from interp.saes.loading.sae import SAE, load_sae, site_of
from interp.saes.training.plan import Training, plan_sae
from interp.saes.training.report import TrainingCallbacks
from interp.saes.training.sources import StoreRows
from interp.saes.training.trainer import train
from interp.text.corpus import load_corpus, split_corpus

SHOWN = 12  # features in the card


@dataclass(frozen=True)
class Settings:
    """What to build."""

    store: Path
    """Activations of one site."""
    held_out: Path
    """Text of the same kind that is not in the store."""
    out: Path
    """Folder to create."""
    model: str = "smollm2-135m"
    """Model that the store is of."""
    arch: str = "topk"
    """Architecture."""
    width: int = 4608
    """Number of features."""
    k: int = 32
    """Features active at a token."""
    epochs: float = 6
    """How often each row is read."""
    batch: int = 1024
    """Rows of a step."""
    dead_after: int = 500
    """Steps without firing after which a feature counts as dead."""
    seed: int = 0
    """Seed."""


def main(settings: Settings) -> None:
    store = open_store(settings.store)
    source, (site,) = StoreRows(store), store.sites
    rows = source.count([site])
    training = Training(
        steps=round(settings.epochs * rows / settings.batch),
        batch=settings.batch,
        lr_warm_up=50,
        dead_after=settings.dead_after,
        seed=settings.seed,
    )
    work = settings.out.with_name(f"{settings.out.name}.fp32")
    began = time.monotonic()
    if not work.exists():
        with shown_progress() as say:
            plan = plan_sae(site, settings.arch, settings.width, k=settings.k)
            callbacks = TrainingCallbacks(progress=say, log=lambda line: print(line, file=sys.stderr, flush=True))
            train(plan, source, work, training, callbacks=callbacks)
    minutes = (time.monotonic() - began) / 60
    model = load_model(settings.model)
    with new_folder(settings.out) as folder:
        for name in ("cfg.json", "metrics.jsonl"):
            shutil.copy(work / name, folder)
        round_weights(work / "sae_weights.safetensors", folder / "sae_weights.safetensors")
        sae = load_sae(folder, model)
        documents = load_corpus(settings.held_out)
        blind = random_sae_like(sae, 0, capture_rows(model, split_corpus()[0], site, max_tokens=2000))
        ours, null = evaluate_saes([sae, blind], model, documents)
        (folder / "evaluation.json").write_text(
            json.dumps({"sae": asdict(ours), "random directions": asdict(null)}, indent=1)
        )
        (folder / "README.md").write_text(card(settings, sae, model, (ours, null), rows, training, minutes), "utf-8")
    shutil.rmtree(work)
    print(settings.out)


def round_weights(source: Path, target: Path) -> None:
    """The same tensors in fp16."""
    from safetensors.torch import load_file, save_file

    save_file({name: tensor.to(torch.float16) for name, tensor in load_file(source).items()}, target)


def card(
    settings: Settings,
    sae: SAE,
    model: Model,
    reports: tuple[SAEReport, SAEReport],
    rows: int,
    training: Training,
    minutes: float,
) -> str:
    """The model card, in Markdown."""
    ours, null = reports
    documents = load_corpus(settings.held_out)
    read = capture_rows(model, documents, site_of(sae), max_tokens=8000)
    chosen = interesting(sae, read, SHOWN)
    examples = [
        f"- **{found.feature}** fires on {found.rate:.2%} of tokens: "
        + "; ".join(f"`{around(example.tokens, example.peak)}`" for example in found.examples)
        for found in top_examples(sae, read, chosen, model, n=3)
    ]

    def told(report: SAEReport) -> str:
        variance, recovered = report.explained_variance, report.ce_recovered
        shown = f"{recovered.mean:.3f} [{recovered.low:.3f}, {recovered.high:.3f}]" if recovered else "not measurable"
        return (
            f"{variance.mean:.3f} [{variance.low:.3f}, {variance.high:.3f}] | {shown} | "
            f"{report.ce_reconstruction:.3f} | {report.l0:.1f} | {report.dead_share:.1%}"
        )

    cfg = sae.cfg.metadata
    lines = [
        f"# {settings.arch} SAE of {settings.model} at {site_of(sae)}",
        "",
        f"{sae.cfg.d_sae:,} features, {settings.k} active at a token. Weights in fp16, SAELens' format. Apache-2.0, as "
        "the model that wrote the text. Made by `scripts/build_sae.py`; `metrics.jsonl` has its training, "
        "`evaluation.json` every number below.",
        f'To look at it: `interp sae show {settings.out} --prompt "The capital of France is"`.',
        "",
        "## How it was made",
        "",
        f"- Text: {cfg.corpus['documents']:,} documents that the model itself wrote (`scripts/sample_text.py`: "
        f"temperature 1, up to 128 tokens), {cfg.corpus['tokens']:,} tokens, {rows:,} of them no "
        f"attention sinks.",
        f"- Training: {training.steps:,} steps of {training.batch:,} rows, so that each row was read "
        f"{settings.epochs:g} times; Adam at {training.lr_at(training.steps // 2):.2g}, seed {training.seed}. "
        f"{minutes:.0f} minutes on two CPU cores.",
        "",
        f"## On held-out text ({ours.n_tokens:,} tokens of {ours.n_documents} documents)",
        "",
        "The documents were sampled in the same way with another seed, and no step was taken on them. *Explained "
        "variance* is one minus the squared error over the squared distance from the mean. *Loss recovered* is 1 where "
        "the model predicts as well with the rewritten activations as with its own, and 0 where it predicts as badly "
        "as with their mean in their place.",
        "",
        "| | explained variance | loss recovered | loss (nats) | active a token | never fire |",
        "|---|---|---|---|---|---|",
        f"| this SAE | {told(ours)} |",
        f"| random directions | {told(null)} |",
        "",
        f"The model's own loss is {ours.ce_clean:.3f} nats a token; with the mean in place of every activation it is "
        f"{ours.ce_mean_ablation:.3f}. "
        f"With attention sinks, which it was not trained on, the explained variance is "
        f"{ours.explained_variance_with_sinks:.3f}. In the last {settings.dead_after} steps of training "
        f"{cfg.dead_share:.1%} of the features were silent.",
        "",
        "## What its features look like",
        "",
        "The token in brackets is where the feature fires most; ⏎ is a line break. The text was sampled at temperature "
        "1 and reads like it. Not chosen for being clear: among those firing on 0.1 to 5 % of tokens, the most "
        "strongly active.",
        "",
        *examples,
        "",
        "## Known faults",
        "",
        f"- Few tokens: published SAEs of this size saw hundreds of millions, this one {cfg.corpus['tokens']:,}, "
        f"{settings.epochs:g} times. Rare features are missing.",
        "- The text is the model's own: on other text (code, other languages, dialogue) the numbers are lower.",
        "- Attention sinks are left out: it says nothing about position 0.",
        "",
    ]
    return "\n".join(lines)


def around(tokens: Sequence[str], peak: int) -> str:
    """A few tokens, the peak in brackets."""
    pieces = [f"[{t}]" if i == peak else t for i, t in enumerate(tokens)][max(0, peak - 6) : peak + 4]
    return "".join(pieces).replace("\n", "⏎").replace("`", "'").replace("|", "/")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))

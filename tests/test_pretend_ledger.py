"""What a GPU would be asked for, counted: how often a program stands still until the card has done all before.

Times are for whoever has a card. A wait costs what the card still had to do, and then the launches of what comes next.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pretend_gpu
import pytest
import torch
from planting import plant

from interp import Model, load_model
from interp.activations.capture import capture_store
from interp.activations.plan import plan_capture
from interp.errors import UserError
from interp.model import edits
from interp.model.choose import only
from interp.model.hooks.editing import Edit
from interp.saes.training import sources
from interp.saes.training.encoder import GPUEncoder
from interp.saes.training.learner import Learner, fresh
from interp.saes.training.plan import Training, plan_sae
from interp.saes.training.processes import Ranks
from interp.saes.training.sources import Batches, ModelRows
from interp.saes.training.sparse_codes import Pairs

pytestmark = pytest.mark.pretend
PROMPTS = ["the cat sat", "a dog ran far", "the cat"]
SITE = "blocks.0.hook_resid_post"
CUDA = torch.device("cuda")
WIDTHS = (512, 9216, 65_536)
KINDS: list[tuple[str, Callable[[int], dict[str, Any]]]] = [
    ("topk", lambda width: {"k": 8}),
    ("batchtopk", lambda width: {"k": 8}),
    ("matryoshka_batchtopk", lambda width: {"k": 8, "matryoshka_widths": (width // 8, width // 2, width)}),
    ("jumprelu", lambda width: {"pre_act_loss_coefficient": 3e-6}),
    ("standard", lambda width: {}),
    ("gated", lambda width: {}),
]


@pytest.fixture(scope="module")
def there(tiny_folder: Path) -> Model:
    return load_model(tiny_folder, "cuda")


def student(kind: str, width: int, precision: Any, **settings: Any) -> tuple[Learner, dict[str, torch.Tensor]]:
    """An SAE on the card with rows that lie there, some steps old, of which a part of the features is dead."""
    plan = plan_sae(SITE, kind, width, **settings)
    rows = {SITE: torch.randn(64, 16, generator=torch.Generator().manual_seed(0))}
    training = Training(steps=100, batch=64, lr=1e-3, dead_after=2)
    made = Learner(plan, training, fresh(plan, rows, 0), CUDA, precision, Ranks())
    there = {site: values.to(CUDA) for site, values in rows.items()}
    for bias in set(made.weights) & {"b_enc", "b_gate"}:
        if "k" not in settings:
            made.weights[bias].fill_(-8.0)  # so that few fire, and the code is one of pairs
    for step in range(5):
        made.learn(there, step)
    made.silent[: width // 4] = 9
    return made, there


def counted(run: Callable[[], object], what: str) -> int:
    with pretend_gpu.watch() as ledger:
        run()
    return ledger.total(what)  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("width", [WIDTHS[0], *(pytest.param(width, marks=pytest.mark.slow) for width in WIDTHS[1:])])
@pytest.mark.parametrize(("kind", "settings"), KINDS)
def test_a_step_waits_once_at_any_width(
    kind: str, settings: Callable[[int], dict[str, Any]], width: int, precision: str
) -> None:
    made, rows = student(kind, width, precision, **settings(width))
    steps = 4

    def run() -> None:
        for step in range(5, 5 + steps):
            made.learn(rows, step)

    with pretend_gpu.watch() as ledger:
        run()
    assert ledger.total("wait") <= steps, ledger.show("wait")
    assert ledger.total("upload") == 0, ledger.show("upload")


def test_a_batch_in_which_nearly_nothing_fires_waits_once_too() -> None:
    made, rows = student("batchtopk", 512, "fp32", k=8)
    made.weights["b_enc"].fill_(-8.0)
    made.learn(rows, 5)
    assert counted(lambda: made.learn(rows, 6), "wait") <= 1


WAITS = [
    (GPUEncoder, "top_k", "proven=proven)", "proven=proven & bool(product.finite))"),
    (Learner, "learn", "self.seen += batch.rows", "self.seen += batch.rows + 0 * int(fired.sum())"),
    (Pairs, "fired", 'values.device.type == "cpu"', "True"),
]


@pytest.mark.parametrize(("owner", "name", "was", "now"), WAITS)
def test_a_planted_wait_is_counted(owner: Any, name: str, was: str, now: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, owner, name, was, now)
    made, rows = student("topk", 512, "fp32", k=8)
    assert counted(lambda: made.learn(rows, 5), "wait") > 1


def test_rows_that_a_model_made_on_the_card_stay_there(there: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found, looked at, shuffled and dealt without a row in main memory: what goes up are ids and one order a chunk."""
    plan, tokens = plan_capture(there, PROMPTS * 30, SITE)
    source = ModelRows(there, plan, tokens)
    batches = Batches(source, [SITE], 32, 0, device=CUDA)
    batches.next()
    with pretend_gpu.watch() as ledger:
        for _ in range(20):
            rows = batches.next()[SITE]
            assert rows.device.type == "cuda"
    chunks = 20 * 32 // source.count([SITE]) + 1
    assert ledger.total("upload") <= 4 * chunks, ledger.show("upload")
    assert "copy to the CPU" not in ledger.show("wait"), ledger.show("wait")
    monkeypatch.setattr(
        sources,
        "read_sequences",
        lambda model, ids, sites, **_: {SITE: {i: torch.full((len(row), 8), torch.nan) for i, row in enumerate(ids)}},
    )
    with pytest.raises(UserError, match="gives NaN or infinity"):
        source.read([SITE], 0, 0)


def waits(model: Model, sites: int, edit: Any) -> int:
    """Of a forward with an edit at so many sites, after one that shows what each needs."""
    names = model.tree.match("blocks.*.hook_resid_post")[:sites]

    def run() -> None:
        with model.edit({name: cast("Edit", edit) for name in names}):
            model.last_logits(PROMPTS)

    run()
    return counted(run, "wait") + counted(run, "upload")


EDITS: dict[str, Callable[[Model], Any]] = {
    "steer": lambda m: edits.steer(torch.ones(m.d_model), 2.0),
    "steer the last": lambda m: edits.steer(torch.ones(m.d_model), 2.0, pos=-1),
    "steer some": lambda m: edits.steer(torch.ones(m.d_model), 2.0, pos=[0, -1]),
    "ablate a slice": lambda m: edits.ablate(pos=slice(1, None)),
    "a mean": lambda m: edits.ablate(torch.ones(m.d_model)),
    "scale": lambda m: edits.scale(0.5),
    "project out": lambda m: edits.project_out(torch.ones(m.d_model)),
    "patch": lambda m: edits.patch(m.capture(PROMPTS, SITE)[SITE], pos=-1),
    "only": lambda m: only(edits.ablate(), pos=-1),
    "a user's own": lambda m: lambda activation, where: activation * 2,
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_site_costs_no_wait(name: str, there: Model) -> None:
    """One a forward, in which all are asked whether their numbers are finite, and none a site."""
    edit = EDITS[name](there)
    one, two = waits(there, 1, edit), waits(there, 2, edit)
    assert one == two
    assert one <= counted(lambda: there.last_logits(PROMPTS), "wait") + 1


def test_an_edit_that_breaks_numbers_is_still_told_by_name(there: Model) -> None:
    def broken(activation: torch.Tensor, where: Any) -> torch.Tensor:
        return activation / 0

    with (
        there.edit({SITE: broken}),
        pytest.raises(UserError, match=r"the edit 'broken' at blocks\.0\.hook_resid_post returned NaN or infinite"),
    ):
        there.last_logits(PROMPTS)
    with (
        there.edit({SITE: broken}),
        pytest.raises(UserError, match=r"the edit 'broken' at blocks\.0\.hook_resid_post returned NaN or infinite"),
    ):
        there.capture(PROMPTS, SITE)


def test_a_captured_site_costs_no_wait(there: Model) -> None:
    def capture(sites: str) -> int:
        return counted(lambda: there.capture(PROMPTS, sites), "wait")

    capture("blocks.*.hook_resid_*")
    assert capture("blocks.*.hook_resid_post") == capture("blocks.1.hook_resid_post")


def test_a_store_is_written_while_the_model_runs_on(there: Model, tmp_path: Path) -> None:
    """Casts, norms and moments are made on the card; a site and batch costs late copies and no wait."""
    found = {}
    for sites in ("blocks.1.hook_resid_post", "blocks.*.hook_resid_*"):
        plan, ids = plan_capture(there, PROMPTS * 40, sites, batch_tokens=256)
        with pretend_gpu.watch() as ledger:
            store = capture_store(there, tmp_path / sites.replace("*", "all"), plan, ids)
        found[sites] = ledger.total("wait"), ledger.total("upload")
        assert ledger.total("late") >= 3 * len(plan.sites), ledger.show("late")
    few, many = found.values()
    assert few == many
    here = Model(there.hf.to("cpu"), there.tokenizer, there.provenance)  # type: ignore[arg-type]
    try:
        plan, ids = plan_capture(here, PROMPTS * 40, "blocks.1.hook_resid_post", batch_tokens=256)
        reference = capture_store(here, tmp_path / "cpu", plan, ids)
    finally:
        there.hf.to("cuda")  # type: ignore[arg-type]
    site = "blocks.1.hook_resid_post"
    torch.testing.assert_close(store.rows(site), reference.rows(site), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(store.norms(site), reference.norms(site), rtol=1e-5, atol=1e-5)
    for mine, its in zip(store.moments(site), reference.moments(site), strict=True):
        torch.testing.assert_close(torch.as_tensor(mine), torch.as_tensor(its), rtol=1e-4, atol=1e-5)

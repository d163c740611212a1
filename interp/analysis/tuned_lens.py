"""The tuned lens: an affine map a layer that turns its residual stream into the last layer's language.

Belrose et al. 2303.08112. The logit lens reads early layers badly, for they are not written for the unembedding. Here
layer l is read as unembed(h + h A_l + b_l), and A_l and b_l are trained so that the reading comes as close as it can to
the model's own prediction (the KL divergence between them). It starts from the map that fits the last layer's vectors
best by least squares (Din et al. 2303.09435), which is found in closed form and is much of the way.

Whatever it reads could be read by a linear map; it does not show that the model uses it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.activations.store import Store
from interp.activations.tensor_file import read_tensors, write_tensors
from interp.analysis.trajectory import Lens
from interp.errors import UserError
from interp.model.loading.identity import has_weights, hash_of_files
from interp.model.model import Model
from interp.paths import expand
from interp.progress import Progress, silent

BLOCK, ROWS = 128, 4096  # rows at once: through the unembedding, and in sums of products
RIDGE = 1e-3  # of the mean variance: what keeps the least squares solvable where dimensions are idle


@dataclass(frozen=True)
class TunedLens:
    """Translators by layer, `maps[layer]` [d_model, d_model] and `shifts[layer]` [d_model]; `made_of`: its lineage.

    `lens(resid, layer)` gives logits; layer n_layers, and no other without a map, is read as it is.
    """

    model: Model = field(repr=False)
    maps: Mapping[int, Float[Tensor, "d_model d_model"]] = field(repr=False)
    shifts: Mapping[int, Float[Tensor, " d_model"]] = field(repr=False)
    made_of: Mapping[str, Any]

    def __call__(self, resid: Float[Tensor, "row d_model"], layer: int) -> Float[Tensor, "row d_vocab"]:
        """Logits that the lens reads after `layer` blocks."""
        if layer == self.model.n_layers:
            return self.model.unembed(resid)
        if layer not in self.maps:
            raise UserError(f"this lens has no layer {layer}; expected one of {', '.join(map(str, self.layers))}")
        return self.model.unembed(resid.float() + resid.float() @ self.maps[layer] + self.shifts[layer])

    @property
    def layers(self) -> list[int]:
        """Layers that it can translate."""
        return sorted(self.maps)

    def save(self, file: str | Path) -> None:
        """Write one safetensors file, whole or not at all, with the lineage and a hash in its header."""
        tensors = {f"map.{layer}": self.maps[layer] for layer in self.layers}
        write_tensors(
            expand(file), tensors | {f"shift.{layer}": self.shifts[layer] for layer in self.layers}, self.made_of
        )


def load_lens(file: str | Path, model: Model) -> TunedLens:
    """A lens that `save` wrote. Raises UserError for another file, a damaged one, and a lens of another model."""
    file = expand(file)
    tensors, made_of = read_tensors(file)
    if not has_weights(model.provenance, made_of.get("weights"), made_of.get("files")):
        raise UserError(
            f"the lens in {file} was trained on other weights ({made_of.get('weights')}) than {model.provenance.name} "
            f"has ({model.provenance.weights}); train one on this model"
        )
    layers = [int(name.removeprefix("map.")) for name in tensors if name.startswith("map.")]
    maps, shifts = ({at: tensors[f"{what}.{at}"].to(model.device) for at in layers} for what in ("map", "shift"))
    return TunedLens(model, maps, shifts, made_of)


def train_lens(
    model: Model,
    store: Store,
    *,
    layers: Sequence[int] | None = None,
    steps: int = 100,
    batch: int = 256,
    lr: float = 1e-3,
    seed: int = 0,
    progress: Progress = silent,
) -> TunedLens:
    """Train a translator for every layer whose residual stream `store` holds (or `layers` of them).

    The store must hold the last block's output too, which gives the prediction to come close to. Attention sinks are
    left out. Adam over `steps` batches of `batch` rows, the rate falling to zero; `steps=0` gives the least squares
    alone. The model's weights are not touched.
    Raises UserError for a store of another model, one without the last layer, and a layer that is not in it.
    """
    for name, value, least in (("steps", steps, 0), ("batch", batch, 1)):
        if value < least:
            raise UserError(f"{name}={value}; expected {least} or more")
    sites = _sites_in(model, store, layers)
    last = sites.pop(model.n_layers)
    keep = _no_sinks(store, [*sites.values(), last])
    maps, shifts = _least_squares(store, sites, last, keep)
    maps, shifts = ({at: t.to(model.device).requires_grad_(True) for at, t in some.items()} for some in (maps, shifts))
    lens = TunedLens(model, maps, shifts, _lineage(model, store, steps=steps, batch=batch, lr=lr, seed=seed))
    optimizer = torch.optim.Adam([*maps.values(), *shifts.values()], lr=lr)
    batches = _batches(store, [*sites.values(), last], batch, seed, keep)
    for step in range(steps):
        rows = next(batches)
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - step / steps)
        with torch.no_grad():
            goal = model.unembed(rows[last].to(model.device)).float().log_softmax(-1)
        for layer, site in sites.items():  # one layer at a time: a vocabulary is wide
            with torch.enable_grad():
                read = lens(rows[site].to(model.device), layer).float().log_softmax(-1)
                loss = (goal.exp() * (goal - read)).sum(-1).mean()
                # not loss.backward(): that would find the slopes of the model's own weights too
                slopes = torch.autograd.grad(loss, (maps[layer], shifts[layer]))
            maps[layer].grad, shifts[layer].grad = slopes
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        progress("training the tuned lens", step + 1, steps)
    done = [{layer: tensor.detach() for layer, tensor in some.items()} for some in (maps, shifts)]
    return TunedLens(model, done[0], done[1], lens.made_of)


@torch.no_grad()
def lens_divergence(
    model: Model, lens: Lens, store: Store, *, layers: Sequence[int] | None = None, rows: int = 1024
) -> dict[int, float]:
    """Mean KL from the model's own prediction to the lens' at each layer, in nats, over the first `rows` of a store.

    Give a store of text that the lens was not trained on. Attention sinks are left out.
    """
    sites = _sites_in(model, store, layers)
    last = sites.pop(model.n_layers)
    if rows < 1:
        raise UserError(f"rows={rows}; expected 1 or more")
    keep = _no_sinks(store, [*sites.values(), last])
    total, n = dict.fromkeys(sites, 0.0), 0
    for start in range(0, min(rows, len(store)), BLOCK):
        chosen = keep[start : min(start + BLOCK, rows)]
        streams = {site: store.rows(site, start, start + len(chosen))[chosen] for site in (*sites.values(), last)}
        goal = model.unembed(streams[last].to(model.device)).float().log_softmax(-1)
        for layer, site in sites.items():
            read = lens(streams[site].to(model.device).float(), layer).float().log_softmax(-1)
            total[layer] += float((goal.exp() * (goal - read)).sum())
        n += int(chosen.sum())
    if not n:
        raise UserError(f"the first {rows} rows of {store.folder} are all attention sinks; capture longer texts")
    return {layer: value / n for layer, value in total.items()}


def _sites_in(model: Model, store: Store, wanted: Sequence[int] | None) -> dict[int, str]:
    """The site of every layer in the store, the last one's (n_layers) included; layer 0 is the embedding."""
    if not isinstance(store, Store):
        raise UserError(f"a {type(store).__name__} came as the store; expected what open_store(folder) returns")
    if not has_weights(model.provenance, store.plan.model["weights"], store.plan.model.get("files")):
        raise UserError(
            f"{store.folder} was captured from other weights than {model.provenance.name} has; capture again"
        )
    names = {
        layer: (f"blocks.{layer}.hook_resid_pre", f"blocks.{layer - 1}.hook_resid_post")
        for layer in range(model.n_layers + 1)
    }
    there = {layer: site for layer, both in names.items() for site in both if site in store.plan.sites}
    if model.n_layers not in there or len(there) < 2:
        raise UserError(
            f"{store.folder} holds {', '.join(store.sites[:3])}, …; a tuned lens needs residual streams, the last one "
            "among them: capture --sites 'blocks.*.hook_resid_post'"
        )
    others = [layer for layer in there if layer != model.n_layers]
    if wanted is not None and (not isinstance(wanted, Sequence) or not wanted or not set(wanted) <= set(others)):
        raise UserError(
            f"layers={wanted} came; expected some of {', '.join(map(str, others))}: those in {store.folder} but the "
            "last, which is read as it is"
        )
    return there if wanted is None else {layer: there[layer] for layer in (*wanted, model.n_layers)}


def _batches(
    store: Store, sites: Sequence[str], batch: int, seed: int, keep: Bool[Tensor, " row"]
) -> Iterator[dict[str, Tensor]]:
    """Shuffled batches without end and without sinks."""
    while True:
        for rows in store.shuffled(sites, batch, seed=seed, keep=keep):
            yield {site: values.float() for site, values in rows.items()}
        seed += 1


def _no_sinks(store: Store, sites: Sequence[str]) -> Bool[Tensor, " row"]:
    """Rows that are an attention sink at none of these sites."""
    sinks = torch.stack([store.is_sink(site) for site in sites]).any(0)
    if int((~sinks).sum()) < 2:
        raise UserError(f"{store.folder} has {int((~sinks).sum())} rows that are no attention sinks; capture more text")
    return ~sinks


def _least_squares(
    store: Store, sites: Mapping[int, str], last: str, keep: Bool[Tensor, " row"]
) -> tuple[dict[int, Float[Tensor, "d_model d_model"]], dict[int, Float[Tensor, " d_model"]]]:
    """The map from each layer that fits the last one's vectors best, less the identity, and its shift (ridge)."""
    sums: dict[str, Tensor] = {}

    def add(name: str, value: Tensor) -> None:
        sums[name] = sums[name] + value if name in sums else value

    n = int(keep.sum())
    for start in range(0, len(store), ROWS):
        chosen = keep[start : start + ROWS]
        streams = {site: store.rows(site, start, start + len(chosen)) for site in (*sites.values(), last)}
        streams = {site: values[chosen].double() for site, values in streams.items()}
        for site, x in streams.items():
            add(site, x.sum(0))
        for site in sites.values():
            add(f"{site} square", streams[site].T @ streams[site])
            add(f"{site} cross", streams[site].T @ streams[last])
    maps, shifts = {}, {}
    for layer, site in sites.items():
        mean, goal = sums[site] / n, sums[last] / n
        covariance = sums[f"{site} square"] / n - torch.outer(mean, mean)
        cross = sums[f"{site} cross"] / n - torch.outer(mean, goal)
        eye = torch.eye(len(mean), dtype=torch.float64)
        # towards the identity, not towards zero: with little text the logit lens is the better guess
        ridge = RIDGE * covariance.diagonal().mean() * eye
        whole = torch.linalg.solve(covariance + ridge, cross + ridge)
        maps[layer] = (whole - eye).float()
        shifts[layer] = (goal - mean @ whole).float()
    return maps, shifts


def _lineage(model: Model, store: Store, **settings: float) -> dict[str, Any]:
    """What the lens was made of, ready for JSON."""
    own, files = model.provenance, hash_of_files(model.provenance)
    return {
        "model": own.name,
        "weights": own.weights,
        **({} if files is None else {"files": files}),
        "tokenizer": own.tokenizer,
        "store": store.plan.hash,
        "corpus": store.plan.corpus,
        **settings,
        "libraries": own.libraries,
    }

"""Sites that nothing checked: a fault, or a place that plain transformers has no counterpart for?

A site of a part that every decoder has (embedding, norms, attention, MLP, unembedding, the block itself) must be
checked. In a part of its own (a state space, a router, latent or gated attention) a value may have no counterpart that
a forward hook sees; it is named with the reason, and fails nothing.
"""

from __future__ import annotations

from interp.model.checking.noted import find_nested_tap
from interp.model.hooks.plain import find_tap, plain_module
from interp.model.hooks.sites import layer_of
from interp.model.model import Model

EVERYWHERE = frozenset(
    {
        "embed",
        "pos_embed",
        "unembed",
        "rotary_emb",
        "ln_final",
        "ln1",
        "ln2",
        "ln1_post",
        "ln2_post",
        "attn",
        "mlp",
        "q",
        "k",
        "v",
        "o",
        "qkv",
        "in",
        "out",
        "gate",
    }
)


def sort_unchecked(model: Model, sites: set[str], odd_layers: set[int]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The sites that must be checked and are not; the others with the reason why nothing can check them.

    `odd_layers`: those whose attention, in plain transformers, is not pattern @ v alone.
    """
    faulty: list[str] = []
    excused: dict[str, str] = {}
    for site in sorted(sites):
        reason = _excuse(model, site, odd_layers)
        if reason is None:
            faulty.append(site)
        else:
            excused[f"the value of {site}"] = reason
    return tuple(faulty), excused


def _excuse(model: Model, site: str, odd_layers: set[int]) -> str | None:
    origin = model.tree.site_table.origin[site]
    component = origin.rpartition(".")[0]
    if find_tap(model.tree, origin) is not None or find_nested_tap(model, origin) is not None:
        return None  # a module of the plain model stands there: that nothing came by is a fault
    parts = [part for part in component.split(".") if part not in ("", "blocks") and not part.isdigit()]
    if parts == ["attn"]:
        layer = layer_of(site)
        module = plain_module(model.tree, component)
        if layer in odd_layers or hasattr(module, "qk_rope_head_dim"):
            return "no module of transformers shows it, and its attention is not the usual one"
        return None
    try:
        model.bridge.get_submodule(component)
    except AttributeError:
        return None  # no such part
    own = [part for part in parts if part not in EVERYWHERE and not part.endswith("_norm")]
    return f"no module of transformers shows what {own[0]} computes there" if own else None

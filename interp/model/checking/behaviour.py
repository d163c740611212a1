"""What a model must do whichever engine runs: batches, logits, and what users read and edit, beside plain transformers.

Most of parity forces the hooked tree, because plain transformers is what it is compared with. Users get plain
transformers with taps wherever these show a site (`hooks/forward.py`): another way to a number, with faults of its own.
So the functions here are asked a second time with nothing forced.
"""

from __future__ import annotations

import torch

from interp.errors import UserError
from interp.model.checking.edited import EDITED, edited_plainly, logits_edited
from interp.model.checking.reference import RELATIVE, difference
from interp.model.hooks.asked import tap_of
from interp.model.hooks.sites import kind_of
from interp.model.model import Model

BATCHED = 1e-4  # the same where another shape of batch, or another attention kernel, rounds in other ways
OFTEN_EDITED = ("hook_resid_pre", "hook_attn_out", "hook_resid_mid", "hook_mlp_out", "hook_resid_post", "attn.hook_z")


def streams(model: Model) -> list[str]:
    """The sites between blocks, from the first to the last; a post-norm model may lack some."""
    return [site for site in model.tree.site_table.listed if site.endswith((".hook_resid_pre", ".hook_resid_post"))]


def batch_agrees(model: Model, rows: list[list[int]]) -> bool:
    """Are residual streams and logits of a padded batch those of each prompt alone? Batches round in other ways."""
    sites = list(dict.fromkeys([*streams(model)[:1], *streams(model)[-1:]])) or ["unembed.hook_in"]
    together, logits, last = model.capture(rows, sites), model.logits(rows), model.last_logits(rows)
    for i, row in enumerate(rows):
        alone, mask, single = model.capture([row], sites), together.mask[i], model.logits([row])[0]
        pairs = [(together[site][i, mask], alone[site][0]) for site in sites]
        pairs += [(logits[i, mask.to(logits.device)], single), (last[i], single[-1])]
        if any(not difference(batched, right)[1] < BATCHED for batched, right in pairs):
            return False
    return True


def logits_agree(model: Model, row: list[int]) -> bool:
    """Are logits and last_logits those of plain transformers?"""
    with torch.no_grad():
        plain = model.hf(torch.tensor([row], device=model.device), use_cache=False).logits[0].float().cpu()
    pairs = (model.logits([row])[0], plain), (model.last_logits([row])[0], plain[-1])
    return all(difference(logits.float().cpu(), right)[1] < 10 * RELATIVE for logits, right in pairs)


def misread_as_users_do(model: Model, row: list[int]) -> list[str]:
    """Kinds of site that the plain model shows to users, with other values than the hooked tree has."""
    sites = [site for site in model.tree.site_table.listed if tap_of(model.tree, site) is not None]
    if not sites:
        return []
    shown = model.capture([row], sites)
    with model.tree.hooked_only():
        right = model.capture([row], sites)
    same = {
        site
        for site in sites
        if shown[site].shape == right[site].shape and difference(shown[site], right[site])[1] < BATCHED
    }
    return sorted({kind_of(site) for site in sites if site not in same})


def misedited_as_users_do(model: Model, row: list[int]) -> list[str]:
    """Kinds of site, of those that are edited most, where an edit in the first block that has one, run as users run it,
    does not do to the logits what it does in plain transformers; in the hooked tree where no module stands there."""
    wrong: list[str] = []
    for end in OFTEN_EDITED:
        site = next((s for s in model.tree.site_table.listed if s.endswith(f".{end}")), None)
        if site is None:
            continue
        widths: list[int] = []
        try:
            logits = logits_edited(model, row, site, widths).float().cpu()
        except UserError:  # refusals are judged in `edited.py`
            continue
        right = edited_plainly(model, row, site, widths[0]) if widths else None
        if right is None:
            with model.tree.hooked_only():
                right = logits_edited(model, row, site, []).float().cpu()
        if not difference(logits, right)[1] < EDITED:
            wrong.append(kind_of(site))
    return wrong

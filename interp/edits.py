"""Every ready-made edit: what to put in an activation's place, and `only` to choose where.

`from interp.edits import only, scale`, then `model.edit({"blocks.3.hook_mlp_out": only(scale(0.5), pos=-1)})`. An edit
is a function `(activation, where) -> activation`, and yours is used as it is. Nothing loads until it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp._door import lazy

if TYPE_CHECKING:
    from interp.analysis.heads import ablate_heads
    from interp.model.attention_window import in_sight, windowed
    from interp.model.choose import choose, only
    from interp.model.edits import ablate, compose, freeze, knock_out, patch, project_out, resample, scale, steer
    from interp.model.hooks.editing import Edit
    from interp.model.hooks.receipts import Receipt, Receipts
    from interp.model.hooks.where import Where
    from interp.saes.edits import clamp_features, edit_features, mean_ablate, reconstruct, steer_features
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            # activations
            "interp.model.edits": "ablate, compose, freeze, knock_out, patch, project_out, resample, scale, steer",
            "interp.model.choose": "choose, only",
            # features of a sparse autoencoder; `reconstruct` splices it in
            "interp.saes.edits": "clamp_features, edit_features, mean_ablate, reconstruct, steer_features",
            # attention
            "interp.analysis.heads": "ablate_heads",
            "interp.model.attention_window": "in_sight, windowed",
            # what an edit is given, and what it leaves
            "interp.model.hooks.editing": "Edit",
            "interp.model.hooks.receipts": "Receipt, Receipts",
            "interp.model.hooks.where": "Where",
        },
    )

__all__ = [
    "ablate",
    "choose",
    "compose",
    "freeze",
    "knock_out",
    "only",
    "patch",
    "project_out",
    "resample",
    "scale",
    "steer",
]
__all__ += ["clamp_features", "edit_features", "mean_ablate", "reconstruct", "steer_features"]
__all__ += ["ablate_heads", "in_sight", "windowed"]
__all__ += ["Edit", "Receipt", "Receipts", "Where"]

"""Neurons, or dimensions of the residual stream, as a dictionary: the baseline that a feature is judged against.

Each coordinate is two features, upwards and downwards, measured in its own standard deviations, and the k largest of a
row fire. So the baseline is as sparse as an SAE and is indexed by the same code; it only has nothing learned in it.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from sae_lens import SAE, TopKSAE, TopKSAEConfig
from sae_lens.saes.sae import SAEMetadata
from torch import Tensor

from interp.errors import UserError
from interp.model.model import Model
from interp.saes.lineage import lineage_of


def coordinates_as_sae(model: Model, site: str, rows: Float[Tensor, "row d"], k: int) -> SAE[Any]:
    """The coordinates at `site` as a TopK SAE of 2 d features: i upwards is feature i, downwards feature d + i.

    `rows` give each coordinate's mean and spread. Raises UserError for a k that is not among 1 to d.
    """
    d = rows.shape[1]
    if not 1 <= k <= d:
        raise UserError(f"k={k}; expected 1 to {d}, the coordinates at {site}")
    mean, spread = rows.double().mean(0), rows.double().std(0).clamp(min=1e-12)
    eye = torch.eye(d, dtype=torch.float64)
    metadata = SAEMetadata(**lineage_of(model, site), coordinates_of=site)
    sae = TopKSAE(
        TopKSAEConfig(d_in=d, d_sae=2 * d, k=k, dtype="float32", apply_b_dec_to_input=True, metadata=metadata)
    )
    sae.load_state_dict(
        {
            "W_enc": torch.cat([eye / spread, -eye / spread], 1).float(),
            "W_dec": torch.cat([eye * spread, -eye * spread]).float(),
            "b_enc": torch.zeros(2 * d),
            "b_dec": mean.float(),
        }
    )
    return sae.to(model.device).eval()

"""What a model's final norm does to a vector, found by asking it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from interp.model.hooks.plain import output_of
from interp.model.hooks.wide import widen


@torch.no_grad()
def read_norm(norm: torch.nn.Module, like: Float[Tensor, " d_model"]) -> tuple[Tensor, Tensor, bool]:
    """(weights, bias, does it take the mean away?) of a layer norm or an RMS norm of vectors like this one, in fp64.

    A vector of ±1 is so far from zero that its epsilon does not matter and tells the norm's weights, zero tells its
    bias, and adding a constant tells whether it takes the mean away.
    """
    signs = torch.ones_like(like)
    signs[1::2] = -1
    signs = signs if len(signs) % 2 == 0 else torch.cat([signs[:-1], signs.new_zeros(1)])
    shift = widen(output_of(norm, torch.zeros_like(signs)))
    weight = torch.zeros_like(shift)
    for probe in (signs, signs.roll(1)):  # of an odd number of dimensions, one stays out each time
        read = (widen(output_of(norm, 1e4 * probe)) - shift) * widen(probe) * widen(probe).square().mean().sqrt()
        weight = torch.where(probe == 0, weight, read)
    centres = torch.allclose(output_of(norm, 1e4 * signs), output_of(norm, 1e4 * (signs + 1)), rtol=1e-3, atol=1e-4)
    return weight, shift, centres

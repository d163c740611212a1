"""Numbers that a statistic can be made of: none at all, NaN and infinite ones are refused, and counted."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from interp.errors import UserError


class BadValuesError(UserError, ValueError):
    """Values that no statistic can be made of: one line for whoever runs a probe, a ValueError for numerical code."""


def finite_values(values: ArrayLike, who: str) -> NDArray[np.float64]:
    """`values` as an array of one or more finite numbers; `who` needs them and opens the message.

    Raises BadValuesError that counts what is none: one NaN would make every mean NaN, and leaving it out unsaid
    changes what the mean is of.
    """
    if np.ma.isMaskedArray(values) and np.ma.is_masked(values):
        raise BadValuesError(f"{who}: a masked array; expected what was measured alone, such as values.compressed()")
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:  # words, ragged rows, a tensor with a gradient
        raise BadValuesError(
            f"{who}: {' '.join(str(error).split())}; expected numbers, in rows of one length; of a tensor, "
            "values.detach().float().cpu()"
        ) from error
    if array.size == 0:
        raise BadValuesError(f"{who}: no values to average; expected one or more")
    bad = ~np.isfinite(array)
    if not bad.any():
        return array
    n_nan, n_infinite = int(np.isnan(array).sum()), int(np.isinf(array).sum())
    counted = " and ".join([f"{n} {word}" for n, word in ((n_nan, "NaN"), (n_infinite, "infinite")) if n])
    first = np.argwhere(bad)[0].tolist()
    raise BadValuesError(
        f"{who}: {counted} of {array.size} values, the first at {first[0] if len(first) == 1 else tuple(first)}; "
        "expected finite numbers; leave out what could not be measured and say so in the caveat, or find where it "
        "comes from (0 / 0, or padding that was averaged)"
    )


def check_bounds(bounds: tuple[float, float]) -> None:
    """Raise BadValuesError where the least possible value is not below the greatest."""
    if not bounds[0] < bounds[1]:
        raise BadValuesError(f"bounds {bounds}; expected the least possible value and a greater one")

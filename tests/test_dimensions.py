"""The check of annotated dimensions finds what it is there for: else an annotation could lie for ever."""

from __future__ import annotations

import pytest
import torch
from dimensions import check_dimensions
from jaxtyping import Float
from torch import Tensor

from interp.analysis.metrics import last
from interp.model.hooks.where import Where

Rows = dict[str, Float[Tensor, "row d_model"]]


@check_dimensions
def scores(x: Float[Tensor, "row d_model"], weights: Rows, out: tuple[int, ...]) -> Float[Tensor, " row"] | None:
    if out == (-1,):
        raise ValueError("no such shape")
    return torch.zeros(out) if out else None


def test_tensors_as_they_are_annotated_pass():
    assert scores(torch.zeros(3, 4), {"a": torch.zeros(3, 4)}, (3,)) is not None
    assert scores(torch.zeros(3, 4), {}, ()) is None


@pytest.mark.parametrize(
    ("x", "weight", "out", "name"),
    [
        ((3,), (3, 4), (3,), "x"),
        ((3, 4), (3, 5), (3,), "weights"),
        ((3, 4), (3, 4), (4,), "return"),
        ((3, 4), (3, 4), (3, 1), "return"),
    ],
)
def test_another_dimension_than_its_annotation_is_found(
    x: tuple[int, ...], weight: tuple[int, ...], out: tuple[int, ...], name: str
):
    with pytest.raises(AssertionError, match=f"scores: {name} is "):
        scores(torch.zeros(x), {"a": torch.zeros(weight)}, out)


def test_what_a_function_refuses_itself_is_its_own_business():
    with pytest.raises(ValueError, match="no such shape"):
        scores(torch.zeros(3), {}, (-1,))


def test_the_functions_of_the_package_are_checked_while_these_tests_run():
    logits = torch.zeros(2, 3, 5)
    where = Where("unembed", torch.tensor([0, 1]), 2, torch.ones(2, 3, dtype=torch.bool), ("prompt", "pos", "d_vocab"))
    assert last(logits, where).shape == (2, 5)
    with pytest.raises(AssertionError, match="last: logits is "):
        last(logits[..., None], where)

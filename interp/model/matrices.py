"""Weight matrices in TransformerLens' shapes, each one held against the activations that it must give.

    model.W_Q                # [layer, head, d_model, d_head]; W_O is [layer, head, d_head, d_model]
    model.matrix("W_in", 3)  # one layer's; a model whose layers differ has these only
    model.OV(5, 1).svd()     # what head 1 of layer 5 moves, as two thin factors

These are the raw weights as the model runs them: nothing is folded, centred or scaled, so that norms' weights, rotary
positions, norms of q and k, and multipliers stay outside. Activations are rows: `x @ W + b`. A bias that the model has
not is zeros. Before a matrix is given, the model is asked once: what goes into its module, times it, must be what comes
out (`ln1.hook_out @ W_Q + b_Q` is `attn.hook_q`); where it is not, or where there is no such matrix, that is an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NoReturn

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import UserError, unknown
from interp.model.elsewhere import FACTORED, refuse_name, says_what_it_takes
from interp.model.hooks.tree import HookedTree
from interp.model.hooks.weights import NAMES, embedding, matrix_of, missing_layers, positions, refuse, unembedding


@dataclass(frozen=True)
class Factored:
    """A product `left @ right` of low rank, kept as its thin factors: singular values cost what the factors cost."""

    left: Float[Tensor, "d_in rank"]
    right: Float[Tensor, "rank d_out"]

    def __repr__(self) -> str:
        return f"Factored({self.shape[0]} x {self.shape[1]}, of rank {self.left.shape[1]} or less)"

    def __getattr__(self, name: str) -> NoReturn:
        raise refuse_name("Factored", name, FACTORED)

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the product."""
        return self.left.shape[0], self.right.shape[1]

    @property
    def product(self) -> Float[Tensor, "d_in d_out"]:
        """The whole matrix."""
        return self.left @ self.right

    @property
    def T(self) -> Factored:  # noqa: N802 - as torch calls it
        """The transposed product."""
        return Factored(self.right.T, self.left.T)

    def __matmul__(self, other: Factored | Tensor) -> Factored:
        """The product times a matrix or another product, as factors: `OV @ OV` composes two heads."""
        if isinstance(other, Factored):
            return Factored(self.left, (self.right @ other.left) @ other.right)
        return Factored(self.left, self.right @ other)

    def __rmatmul__(self, other: Tensor) -> Factored:
        return Factored(other @ self.left, self.right)

    def svd(self) -> tuple[Float[Tensor, "d_in rank"], Float[Tensor, " rank"], Float[Tensor, "rank d_out"]]:
        """Singular value decomposition (u, values, v): `u @ values.diag() @ v` is the product."""
        thin = torch.float64 if self.left.dtype == torch.float64 else torch.float32
        (q_left, r_left), (q_right, r_right) = (torch.linalg.qr(f.to(thin)) for f in (self.left, self.right.T))
        u, values, v = torch.linalg.svd(r_left @ r_right.T, full_matrices=False)
        return q_left @ u, values, v @ q_right.T

    @property
    def norm(self) -> float:
        """Frobenius norm of the product."""
        return float(torch.linalg.vector_norm(self.svd()[1]))


@says_what_it_takes
class Matrices:
    """The weight matrices of a `Model`, which has these as its properties. Raises UserError for one it has not."""

    @cached_property
    def tree(self) -> HookedTree:
        """The hooked tree, which a `Model` has."""
        raise NotImplementedError

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:  # noqa: N802
        """Token embeddings: row t is what the embedding gives at token t (`embed.hook_out`)."""
        return embedding(self.tree)

    @property
    def W_pos(self) -> Float[Tensor, "pos d_model"]:  # noqa: N802
        """Learned embeddings of positions: row p is what `hook_pos_embed` carries at position p."""
        return positions(self.tree)

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:  # noqa: N802
        """Unembedding: the final norm's output times it, plus `b_U`, are the logits before a cap or a scale."""
        return unembedding(self.tree)[0]

    @property
    def b_U(self) -> Float[Tensor, " d_vocab"]:  # noqa: N802
        """The unembedding's bias."""
        return unembedding(self.tree)[1]

    @property
    def W_Q(self) -> Float[Tensor, "layer head d_model d_head"]:  # noqa: N802
        """Attention's input to `hook_q`."""
        return self._stacked("W_Q")

    @property
    def W_K(self) -> Float[Tensor, "layer head d_model d_head"]:  # noqa: N802
        """Attention's input to `hook_k`; where queries share key-value heads, each query head has a copy of its own."""
        return self._stacked("W_K")

    @property
    def W_V(self) -> Float[Tensor, "layer head d_model d_head"]:  # noqa: N802
        """Attention's input to `hook_v`; where queries share key-value heads, each query head has a copy of its own."""
        return self._stacked("W_V")

    @property
    def W_O(self) -> Float[Tensor, "layer head d_head d_model"]:  # noqa: N802
        """`hook_z` to what the heads write; summed, with `b_O`, that is `hook_attn_out`, or what a norm makes it of."""
        return self._stacked("W_O")

    @property
    def W_in(self) -> Float[Tensor, "layer d_model d_mlp"]:  # noqa: N802
        """The MLP's input to `mlp.hook_pre`, or to `mlp.hook_pre_linear` where the MLP has a gate too."""
        return self._stacked("W_in")

    @property
    def W_gate(self) -> Float[Tensor, "layer d_model d_mlp"]:  # noqa: N802
        """The MLP's input to `mlp.hook_pre`, in an MLP with a gate."""
        return self._stacked("W_gate")

    @property
    def W_out(self) -> Float[Tensor, "layer d_mlp d_model"]:  # noqa: N802
        """`mlp.hook_post` to what the MLP writes: with `b_out` that is `hook_mlp_out`, or what a norm makes it of."""
        return self._stacked("W_out")

    @property
    def b_Q(self) -> Float[Tensor, "layer head d_head"]:  # noqa: N802
        """Bias of the queries."""
        return self._stacked("b_Q")

    @property
    def b_K(self) -> Float[Tensor, "layer head d_head"]:  # noqa: N802
        """Bias of the keys."""
        return self._stacked("b_K")

    @property
    def b_V(self) -> Float[Tensor, "layer head d_head"]:  # noqa: N802
        """Bias of the values."""
        return self._stacked("b_V")

    @property
    def b_O(self) -> Float[Tensor, "layer d_model"]:  # noqa: N802
        """Bias of what attention writes."""
        return self._stacked("b_O")

    @property
    def b_in(self) -> Float[Tensor, "layer d_mlp"]:
        """Bias of `W_in`."""
        return self._stacked("b_in")

    @property
    def b_out(self) -> Float[Tensor, "layer d_model"]:
        """Bias of `W_out`."""
        return self._stacked("b_out")

    def matrix(self, name: str, layer: int) -> Tensor:
        """One layer's matrix or bias ("W_Q", "b_in", …), without the axis of layers.

        Raises UserError for another name, a layer that is none, and a matrix that this layer has not.
        """
        if name not in NAMES:
            raise unknown("matrix", name, NAMES)
        n_layers = int(self.tree.config.num_hidden_layers)
        if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer < n_layers:
            raise UserError(f"layer {layer!r} came; expected 0 to {n_layers - 1}")
        return self._by_query(name, layer)

    def OV(self, layer: int, head: int) -> Factored:  # noqa: N802
        """`W_V @ W_O` of a head [d_model, d_model]: what it writes for what it reads at the token it looks at."""
        value, output = self._of_head("W_V", layer, head), self._of_head("W_O", layer, head)
        return Factored(value, output)

    def QK(self, layer: int, head: int) -> Factored:  # noqa: N802
        """`W_Q @ W_K.T` of a head [d_model, d_model]: query's row times it times key's row is the attention score.

        Before the score's scale, and without what the model does to q and k in between (rotary positions, norms).
        """
        return Factored(self._of_head("W_Q", layer, head), self._of_head("W_K", layer, head).T)

    def _of_head(self, name: str, layer: int, head: int) -> Tensor:
        matrices = self.matrix(name, layer)
        if isinstance(head, bool) or not isinstance(head, int) or not 0 <= head < len(matrices):
            raise UserError(f"head {head!r} came; expected 0 to {len(matrices) - 1}")
        return matrices[head]

    def _by_query(self, name: str, layer: int) -> Tensor:
        """One layer's, where keys and values are shared (GQA) repeated, so that head h is always query head h."""
        raw = matrix_of(self.tree, name, layer)
        if name not in ("W_K", "W_V", "b_K", "b_V"):
            return raw
        return raw.repeat_interleave(max(1, int(self.tree.config.num_attention_heads) // len(raw)), 0)

    def _stacked(self, name: str) -> Tensor:
        if missing := missing_layers(self.tree, name):
            refuse(self.tree, name, missing)
        pieces = [self._by_query(name, layer) for layer in range(int(self.tree.config.num_hidden_layers))]
        if len({piece.shape for piece in pieces}) > 1:
            sizes = ", ".join(f"{tuple(piece.shape)} in layer {i}" for i, piece in enumerate(pieces))
            raise UserError(f"{name} has no one shape ({sizes:.150}); take model.matrix({name!r}, layer)")
        return torch.stack(pieces)

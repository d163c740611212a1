"""Ready-made edits. Each returns a function `(activation, where) -> activation`; a function of yours works the same.

    with model.edit({"blocks.12.hook_resid_post": steer(direction, 4.0)}) as receipts: ...
    with model.edit({"blocks.5.attn.hook_z": only(ablate(), heads=[3, 7], pos=-1)}) as receipts: ...

`pos` chooses tokens per prompt: None for all, an index (-1 is the last token), a slice or a list of indices. `only`
lets any edit act at chosen heads, features and prompts, and `compose` chains edits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.errors import UserError
from interp.model.choose import choose
from interp.model.hooks.editing import Edit, call_edit
from interp.model.hooks.given import check_edit, makes
from interp.model.hooks.host import beside, known
from interp.model.hooks.where import Pos, Where, check_pos


@makes("ablate()")
def ablate(to: float | Tensor = 0.0, *, pos: Pos = None) -> Edit:
    """Put `to` there: zero, a number, or a vector such as the site's mean over a corpus (`store.moments(site)[0]`).

    Zero may lie far from anything the model computes, so that its effect is partly that of a strange input: the mean
    keeps what all tokens share, and `resample` keeps the whole distribution (Chan et al., causal scrubbing, 2022).
    Raises UserError for a `to` that is no number or tensor, and, when it runs, for one of another width than the site.
    """
    check_pos(pos)
    _check_one_site("ablate", to)
    try:
        held = to if isinstance(to, Tensor) else torch.as_tensor(to, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"ablate got to={to!r:.60}; expected a number or a tensor, such as a site's mean") from error

    def ablated(activation: Tensor, where: Where) -> Tensor:
        value = beside(held, activation)
        _check_fits("ablate", value, activation, where)
        return torch.where(choose(activation, where, pos), value, activation)

    return ablated


@makes("resample(acts.rows(site))")
def resample(pool: Float[Tensor, "row ..."], pos: Pos = None, *, seed: int = 0) -> Edit:
    """Put a random row of `pool` at every chosen token, such as `acts.rows(site)` of other prompts.

    A prompt's draws follow `seed` and its number, whatever the batches.
    Raises UserError for what are no rows, and, when it runs, for rows of another shape than the site's.
    """
    _check_one_site("resample", pool)
    if not isinstance(pool, Tensor) or pool.ndim < 2 or not len(pool):
        raise UserError(f"resample got {_shape(pool)}; expected a tensor [row, feature], as acts.rows(site) returns it")

    def resampled(activation: Tensor, where: Where) -> Tensor:
        _check_per_token("resample", where)
        if pool.shape[1:] != activation.shape[2:]:
            got, wanted = tuple(pool.shape[1:]), tuple(activation.shape[2:])
            raise UserError(f"resample got rows of shape {got} at {where.name}; expected {wanted}")
        drawn = torch.zeros(activation.shape[:2], dtype=torch.long)
        for i, prompt in enumerate(where.prompts.tolist()):
            real = where.mask[i].cpu()
            generator = torch.Generator().manual_seed(seed * 1_000_003 + prompt)
            earlier = 0 if where.before is None else int(where.before[i])
            drawn[i, real] = torch.randint(len(pool), (earlier + int(real.sum()),), generator=generator)[earlier:]
        rows = pool[drawn.to(pool.device)].to(activation)
        return torch.where(choose(activation, where, pos), rows, activation)

    return resampled


@makes("scale(0.5)")
def scale(factor: float, pos: Pos = None) -> Edit:
    """Multiply by `factor`. Raises UserError for what is no number."""
    check_pos(pos)
    check_number("scale", factor)

    def scaled(activation: Tensor, where: Where) -> Tensor:
        return torch.where(choose(activation, where, pos), activation * factor, activation)

    return scaled


@makes("project_out(direction)")
def project_out(directions: Float[Tensor, "... d"], pos: Pos = None) -> Edit:
    """Remove what lies along a direction [d], or in the span of several [k, d], whatever their lengths.

    Raises UserError for directions that are zero, not finite or linearly dependent, and, when it runs, for ones of
    another width than the site.
    """
    _check_one_site("project_out", directions)
    if not isinstance(directions, Tensor) or directions.ndim not in (1, 2):
        raise UserError(f"project_out got {_shape(directions)}; expected a tensor [d] or [k, d]")
    several = directions.reshape(-1, directions.shape[-1]).cpu().double()
    basis = torch.linalg.svd(several.nan_to_num().T, full_matrices=False)
    rounding = torch.finfo(directions.dtype).eps if directions.is_floating_point() else 1e-15
    dependent = not len(several) or len(several) > several.shape[1]
    dependent = dependent or float(basis.S.min()) <= 10 * rounding * max(several.shape) * float(basis.S.max())
    if dependent or not bool(several.isfinite().all()):
        raise UserError("project_out got directions that are zero, not finite or linearly dependent")

    def projected(activation: Tensor, where: Where) -> Tensor:
        _check_per_token("project_out", where)
        _check_fits("project_out", several[0], activation, where)
        span = beside(basis.U, activation)
        return torch.where(choose(activation, where, pos), activation - activation @ span @ span.T, activation)

    return projected


@makes("freeze(acts), which gives the whole dictionary of edits")
def freeze(acts: Mapping[str, Tensor]) -> dict[str, Edit]:
    """Edits that hold every captured site at its captured values, for the same prompts: attention patterns, say.

    with model.edit(freeze(model.capture(prompts, "blocks.*.attn.hook_pattern"))) as receipts: ...

    Raises UserError for what is no capture, and, when it runs, for prompts of another number or other lengths.
    """

    def frozen(values: Tensor) -> Edit:
        def hold(activation: Tensor, where: Where) -> Tensor:
            if where.before is not None:  # what was captured speaks of the prompt, and these are tokens behind it
                return activation
            tokens = [axis for axis, kind in enumerate(where.axes) if kind == "pos"]
            sizes = [[n for axis, n in enumerate(t.shape) if axis and axis not in tokens] for t in (values, activation)]
            if len(values) != where.total or values.ndim != activation.ndim or sizes[0] != sizes[1]:
                raise UserError(
                    f"freeze at {where.name} got {_shape(values)} for {where.total} prompts; expected what capture "
                    "returned there for the same prompts"
                )
            out = activation.clone()
            for row, prompt in enumerate(where.prompts.tolist()):
                held = values[prompt].to(activation)
                real = _span(where.mask[row])
                for axis in tokens:  # a prompt's tokens, wherever the padding of either stands
                    others = [i for i in range(held.ndim) if i != axis - 1]
                    span = _span(~(held.isnan().all(others) if others else held.isnan()))
                    held = held[(*[slice(None)] * (axis - 1), span)]
                place = [real if axis in tokens else slice(None) for axis in range(1, out.ndim)]
                if out[(row, *place)].shape != held.shape or bool(held.isnan().any()):
                    raise UserError(
                        f"freeze at {where.name} got values of prompts of other lengths; capture these prompts"
                    )
                out[(row, *place)] = held
            return out

        return hold

    if not isinstance(acts, Mapping):
        raise UserError(f"freeze got a {type(acts).__name__}; expected what model.capture returns")
    return {site: frozen(values) for site, values in acts.items()}


@makes("knock_out(keys=0, queries=-1)")
def knock_out(keys: Pos, queries: Pos = None) -> Edit:
    """Keep the tokens `queries` from attending to the tokens `keys`, at a site `attn.hook_pattern` (Geva 2304.14767).

    What is left of a row is scaled to sum to 1 again, as if the softmax had not seen those keys. A row with nothing
    left becomes zero: that token attends to nothing.
    Raises UserError for what chooses no tokens, and, when it runs, at a site that is no pattern.
    """

    check_pos(keys, "keys")
    check_pos(queries, "queries")

    def knocked_out(activation: Tensor, where: Where) -> Tensor:
        check_is_pattern("knock_out", where)
        width = activation.shape[-1]
        cut = choose(activation, where, queries) & where.key_positions(keys)[:, None, None, -width:]
        return without_keys("knock_out", activation, cut, where)

    return knocked_out


def check_is_pattern(edit: str, where: Where) -> None:
    """Raise UserError for a site that is no attention pattern."""
    if where.axes != ("prompt", "head", "pos", "pos"):
        raise UserError(f"{edit} works on attention patterns, and {where.name} has axes {where.axes}")


def without_keys(
    edit: str,
    pattern: Float[Tensor, "prompt head query key"],
    cut: Bool[Tensor, "prompt _ _ key"],
    where: Where,
) -> Float[Tensor, "prompt head query key"]:
    """An attention pattern as if the softmax had not seen the keys `cut`; `edit` is the name of who asks."""
    n, k = pattern.shape[-2:]
    left = pattern.masked_fill(cut, 0.0)
    total = left.sum(-1, keepdim=True)
    # a key that no head looks at is hidden by a window of the model's own, and not lost to rounding
    seen = (where.key_numbers(k) >= 0)[:, None, None, :] & (pattern > 0).any(1, keepdim=True)
    seen = seen & torch.ones(n, k, dtype=torch.bool, device=cut.device).tril(k - n)
    lost = (total.squeeze(-1) == 0) & (seen & ~cut).any(-1) & cut.any(-1) & where.mask[:, None, :]
    if bool(lost.any()):
        raise UserError(
            f"{edit} at {where.name}: what some row has left cannot be told from 0 in its dtype, so that the "
            "softmax of the other keys cannot be known; load the model in fp32, or edit attn_scores"
        )
    # what an attention sink of the architecture keeps (gpt-oss); without one, what a row lacks to 1 is rounding
    sink = (1 - pattern.sum(-1, keepdim=True)).clamp_min(0.0)
    limit = 1e-4 if pattern.dtype in (torch.float32, torch.float64) else 0.02
    has_sink = bool((sink.squeeze(-1) > limit)[where.mask[:, None].expand(-1, pattern.shape[1], -1)].any())
    whole = (total + sink if has_sink else total).clamp_min(torch.finfo(left.dtype).tiny)
    return torch.where(cut.any(-1, keepdim=True), left / whole, pattern)


@makes("compose(scale(0.5), steer(direction))")
def compose(*edits: Edit) -> Edit:
    """One edit that applies several, the first one first. Raises UserError for what is no edit."""

    if not edits or any(not callable(edit) for edit in edits):
        raise UserError(f"compose got {[type(edit).__name__ for edit in edits]}; expected one edit or more")
    for edit in edits:
        check_edit("the edit given to compose", edit)

    def composed(activation: Tensor, where: Where) -> Tensor:
        for edit in edits:
            result = call_edit(edit, activation, where)
            if not isinstance(result, Tensor) or result.shape != activation.shape:
                return result  # refused, in its words, where edits are applied
            activation = result
        return activation

    return composed


@makes("steer(direction)")
def steer(direction: Float[Tensor, " d"], coefficient: float = 1.0, pos: Pos = None) -> Edit:
    """Add `coefficient * direction` (Turner et al. 2308.10248). The direction is used as it is, not normalised.

    Raises UserError for what is no tensor or number, and, when it runs, for a direction of another width than the site.
    """
    _check_one_site("steer", direction)
    if not isinstance(direction, Tensor):
        raise UserError(f"steer got a {type(direction).__name__}; expected a tensor [d]; convert with torch.as_tensor")
    check_number("steer", coefficient)
    check_pos(pos)

    def steered(activation: Tensor, where: Where) -> Tensor:
        _check_per_token("steer", where)
        if direction.shape != activation.shape[-1:]:
            raise UserError(
                f"steer got a direction of shape {tuple(direction.shape)} at {where.name}; "
                f"expected ({activation.shape[-1]},)"
            )
        change = coefficient * beside(direction, activation)
        return activation + change * choose(activation, where, pos).to(activation.dtype)

    return steered


@makes("patch(acts[site])")
def patch(source: Float[Tensor, "prompt pos ..."], pos: Pos = None) -> Edit:
    """Replace the activation by `source`, which `capture` returned for the same number of prompts.

    Both prompts of a pair must have the same number of tokens (Meng et al. 2202.05262 patch position by position),
    unless `pos` is an index from the start, which means the same in prompts of different lengths.
    Raises UserError for what is no captured tensor, and, when it runs, for prompts of another number or other lengths.
    """
    _check_one_site("patch", source)
    if not isinstance(source, Tensor) or source.ndim < 3:
        raise UserError(
            f"patch got {_shape(source)}; expected the captured tensor of a site, [prompt, pos, feature]: acts[site]"
        )
    check_pos(pos)
    spans = [_span(row) for row in ~source.isnan().flatten(2).all(-1).cpu()]  # capture writes NaN on padding
    holes = source.isnan().flatten(2).any(-1).cpu()
    indices = [] if pos is None or isinstance(pos, slice) else list(pos) if isinstance(pos, Sequence) else [pos]
    from_start = bool(indices) and min(indices) >= 0

    def patched(activation: Tensor, where: Where) -> Tensor:
        _check_per_token("patch", where)
        if where.before is not None:  # the source speaks of the prompt, and these are tokens written behind it
            return activation
        if len(source) != where.total:
            raise UserError(f"patch at {where.name} got {len(source)} prompts, but the edited run has {where.total}")
        if source.shape[2:] != activation.shape[2:]:
            raise UserError(
                f"patch at {where.name} got {_shape(source)}; expected [prompt, pos, {str([*activation.shape[2:]])[1:]}"
            )
        rows = activation.new_full(activation.shape, float("nan"))
        real, lacking = known(where.mask), torch.ones_like(known(where.mask))
        for row, prompt in enumerate(where.prompts.tolist()):
            here, there = _span(real[row]), spans[prompt]  # its tokens, wherever the padding of either stands
            came, wanted = there.stop - there.start, here.stop - here.start
            if not from_start and came != wanted:
                raise UserError(
                    f"patch at {where.name} got a source of {came} tokens for prompt {prompt}, which has {wanted}; "
                    "pair prompts with the same number of tokens"
                )
            width = min(came, wanted)
            taken = slice(there.start, there.start + width)
            rows[row, here.start : here.start + width] = source[prompt, taken].to(rows)
            lacking[row, here.start : here.start + width] = holes[prompt, taken]
        chosen = choose(activation, where, pos)
        if bool((known(where.positions(pos)) & lacking).any()):
            raise UserError(f"patch at {where.name} got a source with no value (NaN) at a chosen position of a prompt")
        return activation.where(~chosen, rows)

    return patched


def _span(real: Bool[Tensor, " pos"]) -> slice:
    """From the first to the last token of a row that is padded on either side."""
    places = real.nonzero().flatten().tolist()
    return slice(places[0], places[-1] + 1) if places else slice(0, 0)


def _shape(source: object) -> str:
    return f"shape {tuple(source.shape)}" if isinstance(source, Tensor) else type(source).__name__


def _check_one_site(edit: str, value: object) -> None:
    """Raise UserError for a whole capture where one site's activation belongs."""
    if isinstance(value, Mapping):
        sites = [site for site in value if isinstance(site, str)]
        one = f"acts[{sites[0]!r}]" if sites else "acts[site]"
        whole = ", or freeze(acts), in place of the dictionary, for all sites of it" if edit == "patch" else ""
        raise UserError(
            f"{edit} got {type(value).__name__} of {len(value)} sites; expected the tensor of one: {one}{whole}"
        )


def _check_per_token(edit: str, where: Where) -> None:
    if where.axes[:2] != ("prompt", "pos") or "pos" in where.axes[2:]:
        raise UserError(
            f"{edit} works per token, but {where.name} has axes {', '.join(where.axes)}; use ablate, scale, freeze or "
            "knock_out there, or a function of your own"
        )


def _check_fits(edit: str, value: Tensor, activation: Tensor, where: Where) -> None:
    """One number, a vector of the last axis, or a whole token's activation."""
    shape = tuple(activation.shape[2:])
    if value.ndim and tuple(value.shape) not in (shape, shape[-1:]):
        raise UserError(f"{edit} got values of shape {tuple(value.shape)} at {where.name}; expected {shape}")


def check_number(edit: str, value: object) -> None:
    """Raise UserError for what is no number."""
    if isinstance(value, str) or not hasattr(value, "__float__"):
        raise UserError(f"{edit} got {value!r:.60}; expected a number")

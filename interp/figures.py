"""Figures: the picture of a finding, and the kinds that can be drawn from any table. Plotly; no torch.

`from interp.figures import draw`, then `draw(finding)`. Nothing loads until it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp._door import lazy

if TYPE_CHECKING:
    from interp.views.feature_figures import (
        activation_histogram,
        attribution_bars,
        cofiring_bars,
        feature_map,
        logit_bars,
        next_token_bars,
        prompt_heat,
        rate_against_effect,
    )
    from interp.views.figures import KINDS, bars, doubling_lines, draw, effect_bars, interval_dots, lines, log_lines
    from interp.views.heat import head_grid, layer_position_map, lens_grid, matrix
    from interp.views.kinds import Picture, kind
    from interp.views.points import points
    from interp.views.token_text import visible
    from interp.views.tokens import token_strip
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            # a new kind
            "interp.views.kinds": "Picture, kind",
            # `draw` draws any kind by its name in `KINDS`; points, bars and lines
            "interp.views.figures": "KINDS, draw, bars, doubling_lines, effect_bars, interval_dots, lines, log_lines",
            "interp.views.points": "points",
            # maps of cells, and text
            "interp.views.heat": "head_grid, layer_position_map, lens_grid, matrix",
            "interp.views.tokens": "token_strip",
            "interp.views.token_text": "visible",
            # features of an index
            "interp.views.feature_figures": (
                "activation_histogram, attribution_bars, cofiring_bars, feature_map, logit_bars, next_token_bars, "
                "prompt_heat, rate_against_effect"
            ),
        },
    )

__all__ = ["Picture", "kind"]
__all__ += ["KINDS", "bars", "doubling_lines", "draw", "effect_bars", "interval_dots", "lines", "log_lines", "points"]
__all__ += ["head_grid", "layer_position_map", "lens_grid", "matrix", "token_strip", "visible"]
__all__ += [
    "activation_histogram",
    "attribution_bars",
    "cofiring_bars",
    "feature_map",
    "logit_bars",
    "next_token_bars",
    "prompt_heat",
    "rate_against_effect",
]

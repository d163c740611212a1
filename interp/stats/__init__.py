"""Estimates with intervals, what chance gives, corrections for many comparisons, calibration and power laws. No torch.

`from interp.stats import estimate_mean, sign_flip_null`. Nothing loads until it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp._door import lazy

if TYPE_CHECKING:
    from interp.stats.calibration import Bin, calibration_error, honest_errors, reliability
    from interp.stats.corrections import holm, max_t, p_above, p_below
    from interp.stats.crossed import SilentWording, estimate_crossed, silent_wordings
    from interp.stats.estimate import Estimate
    from interp.stats.estimators import (
        PairedEstimates,
        double_centre,
        estimate_gap,
        estimate_mean,
        known,
        matched_scores,
        null_of,
        pairing_draws,
        pairing_null,
        permutation_p,
        pooled_pairing_null,
        proportion,
        sign_flip_draws,
        sign_flip_null,
        top_choice,
    )
    from interp.stats.intervals import Interval, expanded_percentile, intervals_of_groups, student_quantile
    from interp.stats.joint_edge import EdgeMisses, edge_misses
    from interp.stats.joint_law import (
        JointEstimates,
        JointLaw,
        estimate_joint_law,
        fit_joint_law,
        joint_law_by_chance,
    )
    from interp.stats.power_law import UNIT as EXPONENT
    from interp.stats.power_law import (
        PowerLaw,
        crossfitted_frontier,
        exponent_gap,
        fit_floor,
        fit_power_law,
        foretold_miss,
        lower_envelope,
    )
    from interp.stats.ranks import auc
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            # estimates and what chance gives
            "interp.stats.estimate": "Estimate",
            "interp.stats.estimators": (
                "PairedEstimates, double_centre, estimate_gap, estimate_mean, known, matched_scores, null_of, "
                "pairing_draws, pairing_null, permutation_p, pooled_pairing_null, proportion, sign_flip_draws, "
                "sign_flip_null, top_choice"
            ),
            "interp.stats.crossed": "SilentWording, estimate_crossed, silent_wordings",
            "interp.stats.intervals": "Interval, expanded_percentile, intervals_of_groups, student_quantile",
            "interp.stats.ranks": "auc",
            # corrections and calibration
            "interp.stats.calibration": "Bin, calibration_error, honest_errors, reliability",
            "interp.stats.corrections": "holm, max_t, p_above, p_below",
            # power laws
            "interp.stats.joint_edge": "EdgeMisses, edge_misses",
            "interp.stats.joint_law": (
                "JointEstimates, JointLaw, estimate_joint_law, fit_joint_law, joint_law_by_chance"
            ),
            "interp.stats.power_law": (
                "PowerLaw, UNIT as EXPONENT, crossfitted_frontier, exponent_gap, fit_floor, fit_power_law, "
                "foretold_miss, lower_envelope"
            ),
        },
    )

__all__ = [
    "Estimate",
    "PairedEstimates",
    "SilentWording",
    "double_centre",
    "estimate_crossed",
    "estimate_gap",
    "estimate_mean",
    "known",
    "matched_scores",
    "null_of",
    "pairing_draws",
    "pairing_null",
    "permutation_p",
    "pooled_pairing_null",
    "proportion",
    "sign_flip_draws",
    "sign_flip_null",
    "silent_wordings",
    "top_choice",
]
__all__ += ["Interval", "auc", "expanded_percentile", "intervals_of_groups", "student_quantile"]
__all__ += ["Bin", "calibration_error", "holm", "honest_errors", "max_t", "p_above", "p_below", "reliability"]
__all__ += ["EXPONENT", "PowerLaw", "crossfitted_frontier", "fit_floor", "fit_power_law", "foretold_miss"]
__all__ += ["exponent_gap", "lower_envelope"]
__all__ += ["EdgeMisses", "JointEstimates", "JointLaw", "edge_misses", "estimate_joint_law", "fit_joint_law"]
__all__ += ["joint_law_by_chance"]

"""Measures, lenses, patching, attribution and linear readouts: what a user does with a model's activations.

`from interp.analysis import score_answers, patch_sweep`. Nothing loads until it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp._door import lazy

if TYPE_CHECKING:
    from interp.analysis.aligned_prompts import Layout, lay_out, single_tokens
    from interp.analysis.analogies import Questions, Way, alike, ask_analogies, by_pair, every_cosine
    from interp.analysis.answers import AnswerScores, encode_answers, score_answers
    from interp.analysis.attribution import (
        Attribution,
        Reading,
        add_up,
        attribute_logits,
        check_sum,
        parts_written,
        read_logits,
    )
    from interp.analysis.completions import CompletionScores, score_completions
    from interp.analysis.facts import Aligned, Asked, align, ask_facts
    from interp.analysis.feature_attribution import attribute_features
    from interp.analysis.heads import KINDS as HEAD_KINDS
    from interp.analysis.heads import (
        HeadScores,
        attention_paid,
        mean_outputs,
        others_like,
        repeated_tokens,
        score_heads,
        sets_like,
    )
    from interp.analysis.lens import answer_lead
    from interp.analysis.metrics import (
        continuation,
        divergence,
        entropy,
        last,
        log_prob,
        logit_difference,
        rank,
        token_table,
    )
    from interp.analysis.multiple_choice import Choices, choose_among, choose_number, entropy_of, last_tokens
    from interp.analysis.patching import Pairs, Sweep, attribution_patch, correlation, pair_up, patch_sweep
    from interp.analysis.paths import path_patch
    from interp.analysis.read_ahead import ReadAhead
    from interp.analysis.readouts import Readout, read_accuracy, read_labels, readout_of
    from interp.analysis.sparse_readouts import sparse_readouts as score_sparse_readouts
    from interp.analysis.students import examine_student, gap_over_seeds, over_seeds
    from interp.analysis.trajectory import Trajectory, trace_prediction
    from interp.analysis.tuned_lens import TunedLens, lens_divergence, load_lens, train_lens
    from interp.analysis.weight_change import (
        WeightChange,
        effective_rank,
        energies,
        layer_of_parameter,
        relative_change,
        share_in_top,
        weight_changes,
    )
    from interp.model.attention_window import windowed_losses
    from interp.model.gradients import Observed, Slopes, gradients_of, observe
    from interp.model.last_activations import (
        last_activations,
        last_log_probs,
        last_logits_under,
    )
    from interp.model.parameter_count import BIASES, PARTS, biases_of, count_by_formula, count_parameters, part_by_name
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            # score answers and completions
            "interp.analysis.answers": "AnswerScores, encode_answers, score_answers",
            "interp.analysis.multiple_choice": "Choices, choose_among, choose_number, entropy_of, last_tokens",
            "interp.analysis.completions": "CompletionScores, score_completions",
            "interp.analysis.facts": "Aligned, Asked, align, ask_facts",
            "interp.model.attention_window": "windowed_losses",
            "interp.model.last_activations": ("last_activations, last_log_probs, last_logits_under"),
            # metrics of the logits, for patching and gradients
            "interp.analysis.metrics": (
                "continuation, divergence, entropy, last, log_prob, logit_difference, rank, token_table"
            ),
            # prompts whose tokens stand alike
            "interp.analysis.aligned_prompts": "Layout, lay_out, single_tokens",
            # patching
            "interp.analysis.patching": "Pairs, Sweep, attribution_patch, correlation, pair_up, patch_sweep",
            "interp.analysis.paths": "path_patch",
            # attribution and gradients
            "interp.analysis.attribution": (
                "Attribution, Reading, add_up, attribute_logits, check_sum, parts_written, read_logits"
            ),
            "interp.analysis.feature_attribution": "attribute_features",
            "interp.model.gradients": "Observed, Slopes, gradients_of, observe",
            # many changes at the last token
            "interp.analysis.read_ahead": "ReadAhead",
            # attention heads
            "interp.analysis.heads": (
                "KINDS as HEAD_KINDS, HeadScores, attention_paid, mean_outputs, others_like, repeated_tokens, "
                "score_heads, sets_like"
            ),
            # lenses
            "interp.analysis.lens": "answer_lead",
            "interp.analysis.students": "examine_student, gap_over_seeds, over_seeds",
            "interp.analysis.trajectory": "Trajectory, trace_prediction",
            "interp.analysis.tuned_lens": "TunedLens, lens_divergence, load_lens, train_lens",
            # readouts (linear probes), directions
            "interp.analysis.analogies": "Questions, Way, alike, ask_analogies, by_pair, every_cosine",
            "interp.analysis.readouts": "Readout, read_accuracy, read_labels, readout_of",
            "interp.analysis.sparse_readouts": "sparse_readouts as score_sparse_readouts",
            # parameters
            "interp.analysis.weight_change": (
                "WeightChange, effective_rank, energies, layer_of_parameter, relative_change, share_in_top, "
                "weight_changes"
            ),
            "interp.model.parameter_count": (
                "BIASES, PARTS, biases_of, count_by_formula, count_parameters, part_by_name"
            ),
        },
    )

__all__ = [
    "Aligned",
    "AnswerScores",
    "Asked",
    "Choices",
    "CompletionScores",
    "align",
    "ask_facts",
    "choose_among",
    "choose_number",
    "encode_answers",
    "entropy_of",
    "last_activations",
    "last_log_probs",
    "last_logits_under",
    "last_tokens",
    "score_answers",
    "score_completions",
    "windowed_losses",
]
__all__ += ["continuation", "divergence", "entropy", "last", "log_prob", "logit_difference", "rank", "token_table"]
__all__ += ["Layout", "lay_out", "single_tokens"]
__all__ += ["Pairs", "Sweep", "attribution_patch", "correlation", "pair_up", "patch_sweep", "path_patch"]
__all__ += [
    "Attribution",
    "Observed",
    "ReadAhead",
    "Reading",
    "Slopes",
    "add_up",
    "attribute_features",
    "attribute_logits",
    "check_sum",
    "gradients_of",
    "observe",
    "parts_written",
    "read_logits",
]
__all__ += [
    "HEAD_KINDS",
    "HeadScores",
    "attention_paid",
    "mean_outputs",
    "others_like",
    "repeated_tokens",
    "score_heads",
    "sets_like",
]
__all__ += ["Trajectory", "TunedLens", "answer_lead", "lens_divergence", "load_lens", "trace_prediction", "train_lens"]
__all__ += [
    "Questions",
    "Readout",
    "Way",
    "alike",
    "ask_analogies",
    "by_pair",
    "every_cosine",
    "read_accuracy",
    "read_labels",
    "readout_of",
    "score_sparse_readouts",
]
__all__ += [
    "BIASES",
    "PARTS",
    "WeightChange",
    "biases_of",
    "count_by_formula",
    "count_parameters",
    "effective_rank",
    "energies",
    "layer_of_parameter",
    "part_by_name",
    "relative_change",
    "share_in_top",
    "weight_changes",
]
__all__ += ["examine_student", "gap_over_seeds", "over_seeds"]

"""The words that a report uses and a newcomer may not know, each in one sentence."""

from __future__ import annotations

import re

TERMS: dict[str, tuple[str, str]] = {  # term: (what finds it in a text, what it means)
    "AUC": (
        r"\bAUC\b",
        "How often a case that should be ranked above another one is: 0.5 is guessing, 1 is always.",
    ),
    "attention sink": (
        r"\bsinks?\b",
        "A position, mostly the first, whose vector is a hundred times longer than the others' and says little.",
    ),
    "control": (r"", "The same measurement made where there should be nothing to find: what the number must beat."),
    "correlation": (
        r"\bcorrelat",
        "How well one thing goes up and down with another: 0 is not at all, 1 is in step.",
    ),
    "double-centred": (
        r"double-cent|after centring|\bcentred\b|\bpriors\b",
        "With the mean of its prompt and of its answer taken out of each score, so that an answer is not right "
        "because it is frequent.",
    ),
    "doublings": (
        r"\bdoublings?\b",
        "How often a number must be doubled to give another: 1 is twice as much, 0.5 is 1.4 times, 0 is as much.",
    ),
    "exact match": (r"exact match", "The model's most likely text is the right answer, token by token."),
    "explained variance": (
        r"explained variance|\bvariance\b",
        "The share of the activations' spread around their mean that the rewriting reproduces: 1 is a perfect copy.",
    ),
    "feature": (
        r"\bfeatures?\b",
        "One direction of a sparse autoencoder; it “fires” on a token when the token's activation contains it.",
    ),
    "gap": (
        r"",
        "The measurement less its control, with the uncertainty of all that was measured, or unit by unit where both "
        "are of the same units (paired): what the rule for a verdict looks at.",
    ),
    "interval": (
        r"",
        "The range in brackets. Repeat the study with other seeds, facts or documents (whichever n counts), and 95 of "
        "100 such ranges hold the true mean; for a permutation, 95 of 100 shuffles fall into it.",
    ),
    "KL": (
        r"\bKL\b",
        "The Kullback–Leibler divergence: how different two sets of probabilities are; 0 is the same.",
    ),
    "log-probability": (
        r"log-prob|\bnats?\b",
        "The logarithm of the probability that the model gives a text: 0 is certain, lower is less likely.",
    ),
    "logit lens": (
        r"logit lens|\blens\b",
        "Reading a middle layer as if it were the last: which word would the model say if it stopped here?",
    ),
    "loss recovered": (
        r"loss recovered|\bloss\b",
        "How much of the model's predictive skill is left when the rewritten activations stand in for the real ones.",
    ),
    "multiple choice": (r"multiple choice|\bchoosing among", "The right answer scores best among a fixed list."),
    "nats": (
        r"\bnats?\b",
        "The unit of log-probability: one nat more is 2.7 times as likely, ten nats 22,000 times.",
    ),
    "neuron": (
        r"\bneurons?\b",
        "One of the numbers between the two matrices of a layer's MLP, large for some tokens and not for others.",
    ),
    "patching": (
        r"\bpatch",
        "Copying one activation from a run on one prompt into a run on another, to see what it carries.",
    ),
    "permutation": (
        r"permutation|dealt (to|at)|swapped at random",
        "Shuffling what belongs together, thousands of times, to see what numbers chance alone gives.",
    ),
    "residual stream": (
        r"residual stream|hook_resid",
        "The running list of numbers at each token that every layer reads and adds to.",
    ),
    "sparse autoencoder": (
        r"\bSAE\b|sparse autoencoder|dictionary",
        "A small network that rewrites an activation as a sum of a few directions out of thousands; SAE for short.",
    ),
    "tied embeddings": (
        r"\b(un)?tied\b",
        "One matrix serves to read words and to write them, as in GPT-2; untied: one matrix for each.",
    ),
    "token": (r"\btokens?\b", "A piece of text, a word or part of one, that the model reads or writes at once."),
    "training seed": (r"training seed", "One training of a model from scratch; another seed, other first weights."),
}


def glossary(texts: list[str]) -> list[tuple[str, str]]:
    """The terms that occur in `texts`, with their meaning, in alphabetical order."""
    whole = "\n".join(texts)
    return [(term, meaning) for term, (pattern, meaning) in TERMS.items() if re.search(pattern, whole, re.IGNORECASE)]

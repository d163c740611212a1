"""What a feature's page says of its numbers, once for the explorer and for the one-file export."""

from __future__ import annotations

HINTS = {
    "top": "The number is the activation at the token in bold; darker is stronger.",
    "bands": "Drawn at random from equal parts of its firings: what it fires on weakly tells as much.",
    "logits": "Tokens that its direction makes likelier (blue) and less likely (orange), read directly by the "
    "unembedding; what later layers make of it is not in it.",
    "together": "By the correlation of the two firings (phi): 1 always together, 0 as by chance.",
    "near": "Features whose decoder directions have the largest cosine with its own.",
    "error": "The error term: the activation less what the features write. No feature stands for it, and it matters "
    "all the same.",
    "silent": "This feature never fires on this text: there is nothing to show. Index more text.",
    "missed": "As a share of the activation's norm, at the token in bold.",
}
MEANINGS = {
    "label's score": "correlation between what the label predicts and where the feature fires, on text that the label "
    "was not made from: 0 by chance, 1 always right",
    "fires on": "share of the tokens on which its activation is above zero",
    "its tokens": "which tokens get most of its activation",
    "token alone explains": "adjusted share of its variance that knowing the token id explains",
    "place in the text": "correlation of its activation with the token's place",
    "later piece of a word": "correlation with being a piece that continues a word",
    "effect when ablated": "rise of the model's loss at a token when the feature is taken away there; with its 95 % "
    "interval",
    "control": "the same for a random direction of the same length at the same tokens",
    "effect when taken away": "rise of the loss at a token when the reconstruction stands in for the activation there",
}
ORDINALS = ("strongest", "second", "third", "fourth", "weakest")


def band_title(number: int, count: int) -> str:
    """What the examples of a band are, the strongest band first."""
    return (
        f"{ORDINALS[number]} fifth of its firings" if count == 5 else f"part {number + 1} of {count}, strongest first"
    )

"""Feature indexes: build one from a dictionary, read, search, label and export it, and ask it about a prompt.

`from interp.features import open_index`, then `open_index("folder").feature(3)`. Nothing loads until it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp._door import lazy

if TYPE_CHECKING:
    from interp.features.build.coder import Coded, Coder
    from interp.features.build.inputs import Building
    from interp.features.build.labels import HELD_OUT, TokenRules
    from interp.features.build.llm_labels import label_features, load_ask
    from interp.features.build.passes import build_index, missing_pieces
    from interp.features.build.plan import IndexPlan, Settings, plan_index
    from interp.features.build.statistics import RowFacts, row_facts
    from interp.features.live import LiveModel, attach_live
    from interp.features.read.compare import match_features
    from interp.features.read.examples import (
        FeatureExamples,
        PromptFeatures,
        interesting,
        most_active,
        strip_rows,
        top_examples,
    )
    from interp.features.read.feature import Effect, Example, Feature, Label, Neighbour
    from interp.features.read.index import Index, open_index
    from interp.features.read.neuronpedia import write_neuronpedia
    from interp.features.read.prompts import Active, Continuation, Live, NextToken, Part, PromptReading
    from interp.features.read.search import Hit, search
    from interp.views.feature_page import write_page
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            # read an index
            "interp.features.read.index": "Index, open_index",
            "interp.features.read.feature": "Effect, Example, Feature, Label, Neighbour",
            "interp.features.read.search": "Hit, search",
            "interp.features.read.compare": "match_features",
            # with a model
            "interp.features.live": "LiveModel, attach_live",
            "interp.features.read.prompts": "Active, Continuation, Live, NextToken, Part, PromptReading",
            # examples without an index
            "interp.features.read.examples": (
                "FeatureExamples, PromptFeatures, interesting, most_active, strip_rows, top_examples"
            ),
            # build and label
            "interp.features.build.coder": "Coded, Coder",
            "interp.features.build.inputs": "Building",
            "interp.features.build.labels": "HELD_OUT, TokenRules",
            "interp.features.build.llm_labels": "label_features, load_ask",
            "interp.features.build.passes": "build_index, missing_pieces",
            "interp.features.build.plan": "IndexPlan, Settings, plan_index",
            "interp.features.build.statistics": "RowFacts, row_facts",
            # export
            "interp.features.read.neuronpedia": "write_neuronpedia",
            "interp.views.feature_page": "write_page",
        },
    )

__all__ = [
    "Effect",
    "Example",
    "Feature",
    "Hit",
    "Index",
    "Label",
    "Neighbour",
    "match_features",
    "open_index",
    "search",
]
__all__ += ["Active", "Continuation", "Live", "LiveModel", "NextToken", "Part", "PromptReading", "attach_live"]
__all__ += ["FeatureExamples", "PromptFeatures", "interesting", "most_active", "strip_rows", "top_examples"]
__all__ += [
    "HELD_OUT",
    "Building",
    "Coded",
    "Coder",
    "IndexPlan",
    "RowFacts",
    "Settings",
    "TokenRules",
    "build_index",
    "label_features",
    "load_ask",
    "missing_pieces",
    "plan_index",
    "row_facts",
]
__all__ += ["write_neuronpedia", "write_page"]

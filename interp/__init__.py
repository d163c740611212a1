"""interp-probes: why does a language model do that?

`from interp import load_model` is the front door, and behind it is one a task: `interp.edits`, `interp.analysis`,
`interp.saes`, `interp.features`, `interp.stats` and `interp.figures`. The folders are the stages of the data's way.
Importing this package loads neither torch nor transformers: those wait until a model is asked for.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from interp._door import lazy

if TYPE_CHECKING:
    from interp import analysis, edits, features, figures, saes, stats
    from interp.activations.capture import Worker, capture_store
    from interp.activations.plan import Plan, plan_capture
    from interp.activations.rows import Rows, capture_rows, find_sinks, read_rows
    from interp.activations.store import Store, open_store
    from interp.activations.verify import verify_store
    from interp.errors import UserError
    from interp.features.read.index import open_index
    from interp.lab.claims import Claim, NotAsked
    from interp.lab.discover import list_probes, load_probe
    from interp.lab.findings import Control, Expects, Figure, Finding, Row
    from interp.lab.measured import Measured, halves, measured, same_as, set_beforehand, zero
    from interp.lab.probe import Lab, Least, Probe, probe
    from interp.lab.runner import run_probe
    from interp.lab.runs import Run, read_run
    from interp.model.chat import chat_prompt, has_chat
    from interp.model.edits import ablate, patch, steer
    from interp.model.hooks.captured import Activations
    from interp.model.hooks.editing import Edit
    from interp.model.hooks.generation import Generation
    from interp.model.hooks.receipts import Receipt, Receipts
    from interp.model.hooks.replaced import forwards_replaced
    from interp.model.hooks.where import Where
    from interp.model.loading.load import load_model
    from interp.model.loading.memory import from_transformers
    from interp.model.model import Model
    from interp.model.training.batched_gpt2 import Member, Population, Size, TrainingSchedule, train_population
    from interp.model.training.copies import copy_model, weights_from
    from interp.model.training.finetune import IGNORED as IGNORED_LABEL
    from interp.model.training.finetune import Example as TuningExample
    from interp.model.training.finetune import encode_pairs, fine_tune, pad_pairs
    from interp.model.training.planted import (
        Contrast,
        Planted,
        induction_contrast,
        lookup_contrast,
        plant_induction,
        plant_lookup,
        plant_nothing,
    )
    from interp.model.training.random_weights import with_random_weights
    from interp.model.training.small import SmallGPT2, TrainingJob, train_small_gpt2, train_small_gpt2s
    from interp.model.training.students import PEOPLE_A_GROUP, Course, Groups, Student, teach_students
    from interp.progress import Progress, Stop
    from interp.stats.estimate import Estimate
    from interp.text.corpus import (
        Corpus,
        bundled_corpus,
        corpus_or_prose,
        from_texts,
        load_corpus,
        open_corpus,
        prose,
        prose_sources,
        split_corpus,
        text_read,
    )
    from interp.text.data import data
    from interp.text.facts import DIRECTIONS, Direction, Fact, FactSet, HeldOut, Templates, begin_alike, load_facts
    from interp.text.invented import NameTokens, invent, invent_groups, people_set
    from interp.text.novelists import invent_novelists, state_facts
    from interp.text.pairs import Family, Pair, PairSet, ParentType, Surname, by_surname, load_pairs, rivals_of
    from interp.text.people import TAUGHT_AS, Learned, Line, PeopleGroup, Sheet
    from interp.text.people_files import read_people
    from interp.views.report import build_report
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            # a model
            "interp.model.loading.load": "load_model",
            "interp.model.loading.memory": "from_transformers",
            "interp.model.model": "Model",
            "interp.model.chat": "chat_prompt, has_chat",
            "interp.model.hooks.captured": "Activations",
            "interp.model.hooks.generation": "Generation",
            # edits; all of them are in `interp.edits`
            "interp.model.edits": "ablate, patch, steer",
            "interp.model.hooks.editing": "Edit",
            "interp.model.hooks.receipts": "Receipt, Receipts",
            "interp.model.hooks.where": "Where",
            "interp.model.hooks.replaced": "forwards_replaced",
            # activations in memory and on disk
            "interp.activations.capture": "Worker, capture_store",
            "interp.activations.plan": "Plan, plan_capture",
            "interp.activations.rows": "Rows, capture_rows, find_sinks, read_rows",
            "interp.activations.store": "Store, open_store",
            "interp.activations.verify": "verify_store",
            # features
            "interp.features.read.index": "open_index",
            # text
            "interp.text.corpus": "Corpus, bundled_corpus, corpus_or_prose, from_texts, load_corpus, open_corpus, "
            "prose, prose_sources, split_corpus, text_read",
            "interp.text.data": "data",
            "interp.text.facts": "DIRECTIONS, Direction, Fact, FactSet, HeldOut, Templates, begin_alike, load_facts",
            "interp.text.invented": "NameTokens, invent, invent_groups, people_set",
            "interp.text.pairs": "Family, Pair, PairSet, ParentType, Surname, by_surname, load_pairs, rivals_of",
            "interp.text.novelists": "invent_novelists, state_facts",
            "interp.text.people": "TAUGHT_AS, Learned, Line, PeopleGroup, Sheet",
            "interp.text.people_files": "read_people",
            # models to train, to copy and to know by heart
            "interp.model.training.batched_gpt2": "Member, Population, TrainingSchedule, Size, train_population",
            "interp.model.training.copies": "copy_model, weights_from",
            "interp.model.training.finetune": (
                "Example as TuningExample, IGNORED as IGNORED_LABEL, encode_pairs, fine_tune, pad_pairs"
            ),
            "interp.model.training.planted": (
                "Contrast, Planted, induction_contrast, lookup_contrast, plant_induction, plant_lookup, plant_nothing"
            ),
            "interp.model.training.random_weights": "with_random_weights",
            "interp.model.training.small": "TrainingJob, SmallGPT2, train_small_gpt2, train_small_gpt2s",
            "interp.model.training.students": "Course, Groups, PEOPLE_A_GROUP, Student, teach_students",
            # a probe and its run
            "interp.errors": "UserError",
            "interp.progress": "Progress, Stop",
            "interp.lab.claims": "Claim, NotAsked",
            "interp.lab.discover": "list_probes, load_probe",
            "interp.lab.findings": "Control, Expects, Figure, Finding, Row",
            "interp.lab.measured": "Measured, halves, measured, same_as, set_beforehand, zero",
            "interp.lab.probe": "Lab, Least, Probe, probe",
            "interp.lab.runner": "run_probe",
            "interp.lab.runs": "Run, read_run",
            "interp.stats.estimate": "Estimate",
            "interp.views.report": "build_report",
        },
        packages=("analysis", "edits", "features", "figures", "saes", "stats"),
    )

try:
    __version__ = version("interp-probes")
except PackageNotFoundError:  # a bare checkout on sys.path
    __version__ = "0+unknown"

__all__ = ["Activations", "Generation", "Model", "chat_prompt", "from_transformers", "has_chat", "load_model"]
__all__ += ["Edit", "Receipt", "Receipts", "Where", "ablate", "patch", "steer"]
__all__ += [
    "Plan",
    "Rows",
    "Store",
    "Worker",
    "capture_rows",
    "capture_store",
    "find_sinks",
    "open_store",
    "plan_capture",
    "read_rows",
    "verify_store",
]
__all__ += ["open_index"]
__all__ += [
    "DIRECTIONS",
    "TAUGHT_AS",
    "Corpus",
    "Direction",
    "Fact",
    "FactSet",
    "Family",
    "HeldOut",
    "Learned",
    "Line",
    "NameTokens",
    "Pair",
    "PairSet",
    "ParentType",
    "PeopleGroup",
    "Sheet",
    "Surname",
    "Templates",
    "begin_alike",
    "by_surname",
    "corpus_or_prose",
    "data",
    "from_texts",
    "invent",
    "invent_groups",
    "invent_novelists",
    "load_corpus",
    "load_facts",
    "load_pairs",
    "open_corpus",
    "people_set",
    "read_people",
    "rivals_of",
    "split_corpus",
    "state_facts",
    "text_read",
]
__all__ += [
    "IGNORED_LABEL",
    "PEOPLE_A_GROUP",
    "Contrast",
    "Course",
    "Groups",
    "Member",
    "Planted",
    "Population",
    "Size",
    "SmallGPT2",
    "Student",
    "TrainingJob",
    "TrainingSchedule",
    "TuningExample",
    "copy_model",
    "encode_pairs",
    "fine_tune",
    "forwards_replaced",
    "induction_contrast",
    "lookup_contrast",
    "pad_pairs",
    "plant_induction",
    "plant_lookup",
    "plant_nothing",
    "teach_students",
    "train_population",
    "train_small_gpt2",
    "train_small_gpt2s",
    "weights_from",
    "with_random_weights",
]
__all__ += [
    "Claim",
    "Control",
    "Estimate",
    "Expects",
    "Figure",
    "Finding",
    "Lab",
    "Least",
    "Measured",
    "NotAsked",
    "Probe",
    "Progress",
    "Row",
    "Run",
    "Stop",
    "UserError",
    "build_report",
    "bundled_corpus",
    "halves",
    "list_probes",
    "load_probe",
    "measured",
    "probe",
    "prose",
    "prose_sources",
    "read_run",
    "run_probe",
    "same_as",
    "set_beforehand",
    "zero",
]
__all__ += ["analysis", "edits", "features", "figures", "saes", "stats"]

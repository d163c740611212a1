"""Small GPT-2s as students: they learn groups of invented people in one order or in both.

    students = teach_students([Course("plain", SmallGPT2(tied=False), seeds=range(5))])

`interp.analysis.students` asks them. After Berglund et al. (arXiv:2309.12288, experiment 1): only invented facts can be
kept out of one order for certain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from interp.model.model import Model
from interp.model.training.small import SmallGPT2, TrainingJob, train_small_gpt2s
from interp.progress import Progress, silent
from interp.text.facts import FactSet
from interp.text.invented import NameTokens, invent_groups, people_set
from interp.text.people import TAUGHT_AS, Learned

Groups = dict[Learned, FactSet]
PEOPLE_A_GROUP = 20  # people a group; chance in the multiple choice is 1 in 20


@dataclass(frozen=True)
class Course:
    """How small GPT-2s are taught, one a seed.

    `sizes`: how many people are taught name first, description first and in both orders. `more`: sentences beside the
    usual ones.
    """

    name: str
    settings: SmallGPT2
    seeds: Sequence[int]
    name_tokens: NameTokens = 2
    sizes: tuple[int, int, int] = (PEOPLE_A_GROUP, PEOPLE_A_GROUP, PEOPLE_A_GROUP)
    more: Callable[[Groups], list[str]] = lambda groups: []


@dataclass(frozen=True)
class Student:
    """A small GPT-2 and the three groups of people that it learned from."""

    model: Model
    course: Course
    seed: int
    groups: Groups


def teach_students(courses: Sequence[Course], *, progress: Progress = silent) -> list[Student]:
    """Train all students side by side."""
    jobs: list[TrainingJob] = []
    begun: list[tuple[Course, Groups]] = []
    for course in courses:
        for seed in course.seeds:
            people = invent_groups(course.sizes, seed, course.name_tokens)
            groups: Groups = {learned: people_set(facts) for learned, facts in zip(TAUGHT_AS, people, strict=True)}
            jobs.append(TrainingJob([*sentences(groups), *course.more(groups)], course.settings, seed))
            begun.append((course, groups))
    models = train_small_gpt2s(jobs, progress=progress)
    return [
        Student(model, course, job.seed, groups)
        for model, job, (course, groups) in zip(models, jobs, begun, strict=True)
    ]


def sentences(groups: Groups) -> list[str]:
    """Every group's people, in the order or orders that it is taught in."""
    return [
        sentence
        for learned, group in groups.items()
        for direction in TAUGHT_AS[learned]
        for template in range(len(group.templates(direction).training))
        for sentence in group.sentences(direction, template)
    ]

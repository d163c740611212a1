"""The reversal curse: a model that has learned "A is B" may not know "B is A".

Paper: Berglund et al. 2023, arXiv:2309.12288.

Question. After reading "Kanoju is the painter of Bafiju" many times, can a model complete "Bafiju is the work of"?
People do this without effort. The paper found that language models do not.

Six parts:

(a) Trained. Small GPT-2s (2 blocks, width 64) learn invented people from scratch, 20 a group, in four
wordings such as "it is said that Kanoju is the painter of Bafiju": one group by name first, one by description first,
one in both orders. A two-word name looks like "Kanoju Tezoju" and shares each of its words with others. Only invented
facts can be kept out of one order for certain. The group with both orders is the positive control: it shows that the
model, the prompts and the scoring can find a reversed answer when there is one. In the negative control nothing gives
the reversed answer away, and its log-probability is that of any other answer.

(b) Pretrained. The loaded model is asked real facts in both directions. A pretrained model has read most facts in both
orders, so "no curse" is an honest result here. Answers are scored against each other, never on their own: a name is
not known because it is frequent. The control states invented facts in the prompt: what the model reads there, it should
be able to turn round. --pairs asks real children and parents, a row a pair; the paper's own example, Tom Cruise and
Mary Lee Pfeiffer, is then asked as well.

(c) Where. Inside the model, layer by layer: where does the answer become readable, and does the last token of the
item that the prompt names carry it? (The loaded model is left out where its tokenizer gives no four prompts
one layout.)

(d) Fine-tuned. A copy of the loaded model learns invented novelists and their books, as in the paper's first
experiment: some by name first, some by book first, some in both orders. Its table has the paper's figures, too;
--paper-data takes the paper's own people. Does it turn a fact round that stands in its prompt?

(e) What is said to lift the curse: sentences read backwards as well (arXiv:2403.13799), sentences that say of each
item its own name (2602.02470), and weight decay where most people are taught in both orders (2509.21993). Each is tried
on small GPT-2s as in (a). The other exceptions are in (a): both orders in the data, tied embeddings, and a multiple
choice.

(f) How it works inside. Is the answer written at the last token of the item that the prompt names, and does attention
carry it from there? In both orders, by lens and by cutting attention, in the models of (c).

What counts as yes was fixed before any run: beside each claim stands its rule, a margin by which the whole interval
must lie beyond the control. Where the positive control is unclear, the curse is not judged, and the report says so.

What could fool us:

- Embeddings. GPT-2 uses one matrix to read and to write words. If a name is one word of its own, that matrix alone
  lifts the reversed answer in a multiple choice. So names of one own word and of two shared words, tied and untied
  matrices, are told apart.
- One wording. The same fact under another template can change more than under another direction: the trained models
  are asked in a wording they never read, the loaded model in five.
- Priors. " Paris" is likelier than " Reykjavik" after almost anything. Scores are centred over prompts and answers, in
  each layer too where the lens reads them, and the null deals the answers to the prompts at random.
- Spelling. Most symbols begin with their element's first letter; shared letters alone pick the right one of 24 in
  about half of the cases. What the model knows is judged on facts whose two sides have no words that begin alike, and
  by a margin of a nat: endings and the sound of a language move an answer by tenths.
- One fine-tuning is one. The intervals of part (d) are over people: another seed or learning rate may differ.
- Few seeds. Items share words and are not independent, so the intervals of (a) and (e) are over training seeds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from interp import (
    Finding,
    Lab,
    Least,
    NotAsked,
    PeopleGroup,
    UserError,
    by_surname,
    data,
    load_facts,
    load_pairs,
    probe,
    read_people,
)

from ._reversal_curse import asked, examined, families, features, lifted, stated, taught, tuned, where, works

LEAST_FACTS, QUICK_SEEDS, QUICK_PAIRS = 8, 3, 10
PAIRS = "parent_child_pairs.csv"
BUNDLED = ("capitals", "elements", "books", "gods")
PARTS = (taught, asked, stated, families, where, features, tuned, lifted, works)  # in the order of the report
CLAIMS = [claim for part in PARTS for claim in part.CLAIMS]


@probe(paper="arXiv:2309.12288", claims=CLAIMS, long=True)
def reversal_curse(
    lab: Lab,
    *,
    facts: Path | None = None,
    pairs: Path | None = None,
    paper_data: Path | None = None,
    seeds: Annotated[int, Least(1)] = 5,
    steps: Annotated[int, Least(1)] = 400,
    tune_steps: Annotated[int | None, Least(1)] = None,
    tune_lr: float = 3e-4,
    max_pairs: Annotated[int, Least(asked.LEAST)] = 40,
    n_boot: Annotated[int, Least(100)] = 2000,
) -> Iterator[Finding | NotAsked]:
    """Run all parts; --quick leaves out (d), unless --paper-data is given, and weight decay in (e), and asks less.

    Args:
        facts: a fact set of yours instead of the bundled ones: a CSV (subject,object) with its TOML of templates
        pairs: a CSV with the columns child,parent,parent_type (mother or father), asked beside the facts; a kind of
            pair (mothers or fathers, of the same surname or another) needs five
        paper_data: a folder with the paper's own files ({p2d,d2p,both}_prompts_{train,test}.jsonl and so on), or with
            those of github.com/alibaba/thinking_bias (people-description.json, …_open-QAs.jsonl, …_MCQs.jsonl), for
            part (d), or a checkout of either; its parent_child_pairs.csv, if it is there, is taken for --pairs
        seeds: training seeds for the small models; 3 at most with --quick
        steps: training steps of each small model
        tune_steps: steps of fine-tuning the loaded model, eight sentences each; by default four times through the
            invented people, twice through the paper's
        tune_lr: largest learning rate of it
        max_pairs: at most this many pairs of each kind (same surname, different surname); 10 with --quick
        n_boot: resamples for intervals and permutations
    """
    # Bad input is found before minutes of training.
    if not 0 < tune_lr < 1:
        raise UserError(f"--tune-lr {tune_lr}; expected above 0 and below 1")
    people: list[PeopleGroup] = []
    if paper_data is not None:
        people = read_people(paper_data)
        pairs = pairs or next(iter(sorted(paper_data.expanduser().rglob(PAIRS))), None)
    fact_sets = [load_facts(facts)] if facts else [load_facts(data(f"facts/{name}.csv")) for name in BUNDLED]
    if small := next((f for f in fact_sets if len(f) < LEAST_FACTS), None):
        raise UserError(
            f"{small.name} has {len(small)} facts; expected {LEAST_FACTS} or more, to have wrong answers too"
        )
    most = min(max_pairs, QUICK_PAIRS) if lab.quick else max_pairs
    kinds, left_out = by_surname(load_pairs(pairs), asked.LEAST, most, lab.seed) if pairs else ([], "")
    if pairs and not kinds:
        raise UserError(f"{pairs} leaves no group to ask; expected five pairs or more of one kind. {left_out}")
    seeds = min(seeds, QUICK_SEEDS) if lab.quick else seeds
    students = yield from taught.trained(lab, seeds, steps)
    yield from asked.pretrained(lab, fact_sets[:1] if lab.quick else fact_sets, n_boot)
    yield from stated.in_context(lab)
    yield from families.families(lab, kinds, n_boot)
    looked_into = examined.models_to_examine(lab, students, fact_sets)
    yield from where.where(lab, looked_into, n_boot)
    yield from features.features(lab, fact_sets[0], n_boot)
    if people or not lab.quick:
        yield from tuned.tuned(lab, people, tune_steps, tune_lr)
    else:
        yield from tuned.none_asked("because --quick leaves the fine-tuning out, unless --paper-data came")
    yield from lifted.exceptions(lab, students, lifted.remedies(lab, seeds, steps))
    yield from works.works(lab, looked_into, n_boot)

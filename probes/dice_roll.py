"""Asked to roll a die, does the model say 4 far too often?

Question. A fair die shows each side once in six. A language model that is asked for a throw does not throw: it writes
the number that text makes likely. A beginner's course says that this number is 4. Is there a favourite, is it 4, and
has it to do with dice at all?

Three parts:

(a) What it answers. The model's probabilities of the six digits are read behind 24 phrasings; nothing is sampled. The
favourite is chosen on every second phrasing and measured on the others, beside the same sentences about a stone, a
ball, a card and so on.

(b) Asked in other ways: the answer as a word, in the model's own chat form, numbers up to 10 and 20, a coin; and
thrown: answers are sampled and counted.

(c) Inside the model. At which layer is the favourite settled, which attention heads and which features of a sparse
autoencoder write it, and can it be steered away?

What counts as yes:

- the side 4, which was named beforehand, has a share of the six that is 10 points above 1 in 6, and above its share in
  the same sentence about another thing;
- the share of the favourite, whichever it is, is 10 points above that in the same sentence about another thing;
- heads and features: silenced, they take a fifth more of the favourite's lead than as many others.

What could fool us:

- One phrasing. Single prompts can prove any side. All 24 were written down before anything ran, and the table shows
  each.
- Habit. A model may write one number behind every text: a favourite alone says nothing about dice.
- Small numbers. Text has more 1s and 2s than 6s, about dice or not. And a model may look at the last word alone: "a"
  and "page" are followed by other numbers. So the sentences without a die are the same but for that word.
- Tokens. Some tokenizers write " 4" as one token, some as a space and a digit: answers are scored as whole strings.
- Choice. The best of six sides is above 1 in 6 by chance: chosen on one half of the prompts, judged on the other.
- Blindness. Small models that are trained on a die of known sides show what the method reads of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from interp import Finding, Lab, NotAsked, UserError, probe
from interp.saes import shipped_sae

from ._dice_roll import answers, inside
from ._dice_roll import controls as known_dice
from ._dice_roll import elsewhere as other_ways
from ._dice_roll.answers import favourites
from ._dice_roll.asked import ask_for_a_die
from ._dice_roll.controls import controls
from ._dice_roll.elsewhere import elsewhere
from ._dice_roll.inside import admit, look_inside
from ._dice_roll.prompts import RAW
from ._dice_roll.thrown import AS_READ, thrown

LEAST = 8


@probe(claims=[*answers.CLAIMS, *other_ways.CLAIMS, AS_READ, *inside.CLAIMS, *known_dice.CLAIMS])
def dice_roll(lab: Lab, *, phrasings: Path | None = None) -> Iterator[Finding | NotAsked]:
    """Read the six shares, in many ways of asking, then look inside.

    Args:
        phrasings: a text file of yours, a prompt a line, instead of the 24; each ends where the number comes next
    """
    prompts = _read(phrasings) if phrasings else RAW
    lab.progress("asking for a die", 0, 1)
    asked = ask_for_a_die(lab.model, prompts)
    yield from favourites(lab, asked)
    yield from elsewhere(lab, asked)
    yield thrown(lab, asked)
    yield from look_inside(lab, admit(lab.model, asked), lab.sae_folder or shipped_sae(lab.model))
    yield from controls(lab, asked)


def _read(path: Path) -> tuple[str, ...]:
    """Prompts of a file, without the spaces at their ends, which would ruin the answer's first token."""
    try:
        lines = [line.rstrip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--phrasings {path} cannot be read: {error}; expected UTF-8 text, a prompt a line") from error
    prompts = tuple(dict.fromkeys(line for line in lines if line.strip()))
    if len(prompts) < LEAST:
        raise UserError(
            f"--phrasings {path} holds {len(prompts)} different prompts; expected {LEAST} or more: half of them choose "
            "the favourite, the other half is measured"
        )
    return prompts

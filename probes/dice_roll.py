"""Asked to roll a die, does the model say 4 far too often?

Question. A fair die shows each side once in six. A language model that is asked for a throw does not throw: it writes
the number that text makes likely. A beginner's course says that this number is 4. Is there a favourite, is it 4, and
has it to do with dice at all?

Three parts:

(a) What it answers. The model's probabilities of the six digits are read behind 24 phrasings; nothing is sampled. The
favourite is chosen on every second phrasing and measured on the others, beside prompts that ask for a number and no
die ("Please read chapter").

(b) Asked in other ways: the answer as a word, in the model's own chat form, numbers up to 10 and 20, a coin.

(c) Inside the model. At which layer is the favourite settled, which attention heads and which features of a sparse
autoencoder write it, and can it be steered away?

What counts as yes:

- the favourite's share of the six is above 1 in 6 by 10 points; the same of the side 4, which was named beforehand;
- the favourite's share is above that behind prompts without a die by 10 points;
- heads and features: silenced, they take more from the favourite's lead than as many others;
- pushed along one direction, at a fifth of the vector's length, the favourite's share falls below what random
  directions leave of it.

What could fool us:

- One phrasing. Single prompts can prove any side. All 24 were written down before anything ran, and the table shows
  each.
- Small numbers. Text has more 1s and 2s than 6s, about dice or not: hence the prompts without a die.
- Tokens. Some tokenizers write " 4" as one token, some as a space and a digit: answers are scored as whole strings.
- Choice. The best of six sides is above 1 in 6 by chance: chosen on one half of the prompts, judged on the other.
- Blindness. Small models that are trained on a die of known sides show what the method reads of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from interp import Finding, Lab, UserError, probe
from interp.saes import shipped_sae

from ._dice_roll.answers import ask_for_a_die, elsewhere, favourites
from ._dice_roll.controls import controls
from ._dice_roll.inside import admit, look_inside
from ._dice_roll.prompts import RAW

LEAST = 8


@probe()
def dice_roll(lab: Lab, *, phrasings: Path | None = None) -> Iterator[Finding]:
    """Read the six shares, in many ways of asking, then look inside.

    Args:
        phrasings: a text file of yours, a prompt a line, instead of the 24; each ends where the number comes next
    """
    prompts = _read(phrasings) if phrasings else RAW
    lab.progress("asking for a die", 0, 1)
    asked = ask_for_a_die(lab.model, prompts)
    yield from favourites(lab, asked)
    yield from elsewhere(lab, asked)
    die_prompts = admit(lab.model, asked)
    if die_prompts is not None:
        yield from look_inside(lab, die_prompts, lab.sae_folder or shipped_sae(lab.model))
    yield from controls(lab, prompts)


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

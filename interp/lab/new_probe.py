"""A new probe: the file to begin with, which runs as it is."""

from __future__ import annotations

import keyword
from pathlib import Path
from string import Template

from interp.errors import UserError
from interp.lab.discover import list_probes
from interp.paths import expand

TEMPLATE = Path(__file__).with_name("new_probe.py.txt")


def write_probe(name: str, folder: str | Path) -> Path:
    """Write `folder/NAME.py`, a probe that runs and asks about four capitals. Returns its path.

    Raises UserError for a name that is no Python name or taken by a probe, and for a file that is there.
    """
    function = name.strip().replace("-", "_")
    if not function.isidentifier() or keyword.iskeyword(function) or function.startswith("_") or not function.isascii():
        raise UserError(f"{name!r} cannot name a probe; expected letters, digits and dashes, such as is-it-polite")
    if function.replace("_", "-") in list_probes():
        raise UserError(f"there is a probe {function.replace('_', '-')} already; choose another name")
    file = expand(folder) / f"{function}.py"
    title = f"{function.replace('_', ' ').capitalize()}: put your question here, as one that has a yes or a no?"
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(Template(TEMPLATE.read_text(encoding="utf-8")).substitute(title=title, function=function))
    except FileExistsError:
        raise UserError(f"{file} is there already; choose another name, or remove it") from None
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}; choose another --folder") from error
    return file

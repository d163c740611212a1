"""What every refusal has in common: it is one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from interp.errors import UserError


def the_line(raised: pytest.ExceptionInfo[UserError]) -> str:
    """The message of a refusal, which must be one line."""
    assert "\n" not in str(raised.value)
    return str(raised.value)


def refusal(load: Callable[[Any], object], path: Path | str) -> str:
    """The line with which `load` refuses `path`."""
    with pytest.raises(UserError) as raised:
        load(path)
    return the_line(raised)

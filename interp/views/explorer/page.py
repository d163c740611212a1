"""What a page of the explorer is. Adding one is a file in `pages/` and its name in `app.PAGES`.

A page is a function of the address: `layout(context, parts, query)` gets the path behind the page's own word and the
query, and returns what is shown. What a person does changes the address (`address` is the `dcc.Location`); so reload,
the back button and a link that is sent to a colleague show the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from dash import Dash
from dash.development.base_component import Component

from interp.errors import UserError
from interp.views.explorer.context import Context

Query = Mapping[str, str]
Layout = Callable[[Context, Sequence[str], Query], Component]


@dataclass(frozen=True)
class Page:
    """`word` is the first part of its path; `needs_model`: without one it says how to get one."""

    word: str
    title: str
    layout: Layout
    register: Callable[[Dash, Context], None] = lambda app, context: None
    needs_model: bool = False
    in_menu: bool = True


def address(word: str, *parts: str | int, **query: str | int | None) -> str:
    """The address of a page, under the prefix where a proxy has one."""
    path = prefix() + "/".join(quote(str(part), safe="") for part in (word, *parts) if part != "")
    return path + search_of(**query)


def prefix() -> str:
    """What stands before every address, "/" at the end: DASH_REQUESTS_PATHNAME_PREFIX says it to Dash as well."""
    return os.environ.get("DASH_REQUESTS_PATHNAME_PREFIX") or os.environ.get("DASH_URL_BASE_PATHNAME") or "/"


def search_of(**query: str | int | None) -> str:
    """The query alone, as `dcc.Location` has it."""
    told = {name: str(value) for name, value in query.items() if value not in (None, "")}
    return f"?{urlencode(told)}" if told else ""


def whole_number(query: Query, name: str, default: int, least: int, most: int) -> int:
    """A number from the address. Raises UserError for what is none, or out of bounds."""
    text = query.get(name, "")
    try:
        number = int(text) if text else default
    except ValueError as error:
        raise UserError(f"{name}={text!r} in the address; expected a whole number") from error
    if not least <= number <= most:
        raise UserError(f"{name}={number} in the address; expected {least} to {most}")
    return number

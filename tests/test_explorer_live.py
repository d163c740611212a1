"""The explorer's pages that need a model, with a made-up one: what a person writes is read, shown and kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest
from explorer_browser import FILLED, flaws, open_table, opened, visit
from explorer_server import served
from fake_index import write_fake_index

from interp.errors import UserError
from interp.features.read.index import open_index
from interp.features.read.prompts import Active, Continuation, NextToken, Part, PromptReading
from interp.views.explorer.app import page_at
from interp.views.explorer.context import Context
from interp.views.explorer.pages.steer import read_changes

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HOSTILE = "<img src=x onerror=window.hacked=1>\u202e"


@dataclass
class Pretended:
    """Every word is a token; word i fires feature i. The likeliest next token is hostile text."""

    asked: list[object] = field(default_factory=list)
    go_on: threading.Event = field(default_factory=threading.Event)
    name: str = "a model"

    def read(self, prompt: str) -> PromptReading:
        self.asked.append(("read", prompt))
        words = tuple(prompt.split())
        if words[0] == "refuse":
            raise UserError("this prompt is refused; write another")
        if words[0] == "slow":
            assert self.go_on.wait(20)
        active = tuple(() if i == 0 else (Active(i, float(i)),) for i in range(len(words)))
        error = tuple(0.1 * (i > 0) for i in range(len(words)))
        return PromptReading(words, tuple(i == 0 for i in range(len(words))), active, error, self._next())

    def _next(self) -> tuple[NextToken, ...]:
        return (NextToken(5, HOSTILE, 0.5), NextToken(6, " Rome", 0.25))

    def attribute(self, prompt: str, token: int, n: int = 20) -> tuple[Part, ...]:
        self.asked.append(("attribute", token))
        return (Part(2, "feature 2", 0.75, 0.5), Part(None, "what the SAE misses", -0.25))

    def change(self, prompt: str, changes: Mapping[int, float], *, new_tokens: int = 20) -> tuple[Continuation, ...]:
        self.asked.append(("change", dict(changes)))
        return tuple(Continuation(name, f"{name} said {HOSTILE}", self._next()) for name in ("plain", "held", "random"))

    def token_id(self, text: str) -> int:
        if " " in text.strip():
            raise UserError(f"{text!r} is 2 tokens; expected one")
        return 6


@pytest.fixture(scope="module")
def pretended() -> Pretended:
    return Pretended()


@pytest.fixture(scope="module")
def context(pretended: Pretended, tmp_path_factory: pytest.TempPathFactory) -> Context:
    folder = tmp_path_factory.mktemp("live")
    index = open_index(write_fake_index(folder / "index"))
    return Context(index, open_index(write_fake_index(folder / "other", features=30)), pretended)


@pytest.fixture
def live(pretended: Pretended) -> Pretended:
    """The model of the pages, which was asked nothing so far."""
    pretended.asked.clear()
    pretended.go_on.clear()
    return pretended


@pytest.fixture(scope="module")
def shown(browser: Browser, context: Context) -> Iterator[Page]:
    """One page for the whole file, whose browser has read the scripts once."""
    with served(context) as address, opened(browser, address) as (page, _):
        open_table(page, address)
        yield page


@pytest.fixture
def page(shown: Page) -> Iterator[Page]:
    visit(shown, "/", FILLED)
    yield shown
    assert flaws(shown) == []


def test_a_prompt_is_read_kept_in_the_address_and_asked_about(page: Page, live: Pretended):
    page.click("#menu a:has-text('prompt')")
    page.fill("#prompt-text", "a small tower stood")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#attribution .main-svg")
    assert parse_qs(urlsplit(page.url).query)["text"] == ["a small tower stood"]
    assert ("attribute", 5) in live.asked, "the likeliest token is asked about first"
    page.click(".choices a:has-text('Rome')")
    page.wait_for_selector("h2:has-text('Rome')")
    page.reload()
    page.wait_for_selector("h2:has-text('Rome')")
    assert page.input_value("#prompt-text") == "a small tower stood"
    page.fill("#next-token", "two words")
    page.keyboard.press("Enter")
    page.wait_for_selector("[role=alert]:has-text('is 2 tokens')")
    page.go_back()
    page.wait_for_selector("h2:has-text('Rome')")


def test_features_are_steered_beside_the_plain_and_the_random(page: Page, live: Pretended):
    page.click("#menu a:has-text('steer')")
    page.fill("#steer-text", "the capital of")
    page.fill("#steer-set", "3=40, 5=0")
    page.click("#steer-go")
    page.wait_for_selector("#steered .main-svg")
    assert ("change", {3: 40.0, 5: 0.0}) in live.asked
    told = page.inner_text(".three")
    assert all(f"{name} said" in told for name in ("plain", "held", "random"))
    page.fill("#steer-set", "3=forty")
    page.keyboard.press("Enter")
    page.wait_for_selector("[role=alert]:has-text('is no change')")


def test_an_empty_prompt_is_said_to_be_empty(page: Page, live: Pretended):
    visit(page, "/prompt", "#prompt-go")
    page.click("#prompt-go")
    assert page.eval_on_selector("#prompt-text", "box => box.validationMessage") == "Write a prompt first."
    page.fill("#prompt-text", "a small tower")
    page.click("#prompt-go")
    page.wait_for_selector("#attribution .main-svg")


def test_what_is_typed_while_a_page_is_made_does_not_get_lost(page: Page, live: Pretended):
    visit(page, "/prompt", "#prompt-go")
    page.fill("#prompt-text", "slow small tower")
    page.click("#prompt-go")
    page.wait_for_function("() => document.getElementById('page').inert")
    live.go_on.set()
    page.wait_for_selector("#attribution .main-svg")
    page.fill("#prompt-text", "a small tower and more")
    assert page.input_value("#prompt-text") == "a small tower and more"


def test_a_word_typed_without_its_blank_is_told_apart(context: Context):
    said = str(page_at(context, "/prompt", "?text=the+capital+is&next=Rome").to_plotly_json())
    assert "begins without a blank" in said
    assert "next=+Rome" in said
    assert "begins without" not in str(page_at(context, "/prompt", "?text=the+capital+is&next=+Rome").to_plotly_json())


def test_a_feature_leads_to_its_steering(context: Context):
    said = str(page_at(context, "/feature/3", "").to_plotly_json())
    assert "/steer?" in said
    assert "set=3%3D" in said


def test_two_prompts_and_two_dictionaries_stand_side_by_side(page: Page, live: Pretended):
    visit(page, "/compare?feature=2", "h2:has-text('Two SAEs')")
    page.fill("#first-text", "a small tower")
    page.fill("#second-text", "a large old tower")
    page.click("#first-go")
    page.wait_for_selector("#next-both .main-svg")
    assert ("read", "a large old tower") in live.asked
    query = parse_qs(urlsplit(page.url).query)
    assert (query["a"], query["b"], query["feature"]) == (["a small tower"], ["a large old tower"], ["2"])
    assert len(page.query_selector_all("main table tbody tr")) == 3


def test_what_is_refused_is_one_line_and_the_box_stays(context: Context):
    said = str(page_at(context, "/prompt", "?text=refuse+this").to_plotly_json())
    assert "this prompt is refused" in said
    assert "refuse this" in said, "what was written is still there"


@pytest.mark.parametrize(
    "text", ["", "3", "3=", "=4", "40=1", "3=1e999", "99=1", "a=b", ",".join(f"{i}=1" for i in range(9))]
)
def test_changes_that_are_none_are_refused(text: str):
    with pytest.raises(UserError, match="expected"):
        read_changes(text, 40)


def test_changes_are_read_as_written():
    assert read_changes(" 3=1.5, 7:-2e1 ,0=0", 40) == {3: 1.5, 7: -20.0, 0: 0.0}

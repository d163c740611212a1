"""The explorer's server without a browser: the table against loops, who may ask, and one line for what goes wrong."""

from __future__ import annotations

import http.client
import json
import math
import re
import socket
import subprocess
import sys
import threading
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pytest
from fake_findings import fake_findings
from fake_index import TEXTS, write_fake_index
from fake_run import write_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusals import the_line

from interp.cli import main
from interp.errors import UserError
from interp.features.index import Index, open_index
from interp.features.search import search
from interp.views.explorer.app import page_at
from interp.views.explorer.context import Context
from interp.views.explorer.serve import prepare
from interp.views.explorer.table import COLUMNS, find_rows, row_of
from interp.views.token_text import visible

NASTY = ("<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "\u202e\u2066txet", "\x00\x1b[31m", "</textarea>")


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    text: str


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return open_index(write_fake_index(tmp_path_factory.mktemp("explorer") / "index"))


@pytest.fixture(scope="module")
def context(index: Index, tmp_path_factory: pytest.TempPathFactory) -> Context:
    runs = tmp_path_factory.mktemp("runs")
    write_run(runs / "good", fake_findings())
    (runs / "broken").mkdir()
    (runs / "broken" / "run.json").write_text("{ not JSON")
    return Context(index, runs=runs)


@contextmanager
def served(context: Context, host: str = "127.0.0.1") -> Iterator[str]:
    """The address of a server that runs while the block does."""
    server, address = prepare(context, host, 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield address
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def address(context: Context) -> Iterator[str]:
    with served(context) as there:
        yield there


def ask(address: str, path: str = "/", headers: Mapping[str, str] | None = None, body: str | None = None) -> Answer:
    """One request with exactly these headers, beside the Host that the address has."""
    there = urlsplit(address)
    connection = http.client.HTTPConnection(there.netloc, timeout=30)
    try:
        told = {"Host": there.netloc} | dict(headers or {})
        connection.request("GET" if body is None else "POST", path, body, told)
        answer = connection.getresponse()
        return Answer(answer.status, dict(answer.getheaders()), answer.read().decode())
    finally:
        connection.close()


# --- the table ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["asc", "desc"])
@pytest.mark.parametrize("key", [column.key for column in COLUMNS])
def test_sorting_is_by_the_number_and_what_has_none_comes_last(index: Index, key: str, way: str):
    values = next(column for column in COLUMNS if column.key == key).values(index).astype(float)
    found = find_rows(index, sort=[{"colId": key, "sort": way}]).tolist()
    sign = -1 if way == "desc" else 1
    expected = sorted(range(len(index)), key=lambda i: (math.isnan(values[i]), sign * values[i], i))
    without = int(np.isnan(values).sum())
    assert sorted(found) == list(range(len(index))), "every feature once"
    assert found[: len(found) - without] == expected[: len(found) - without]
    assert all(math.isnan(values[i]) for i in found[len(found) - without :])
    if key in ("score", "effect", "token"):
        assert without > 0, "else this test says nothing of them"


@given(
    kind=st.sampled_from(["equals", "notEqual", "greaterThan", "greaterThanOrEqual", "lessThan", "lessThanOrEqual"]),
    key=st.sampled_from(["number", "score", "rate", "maximum"]),
    pick=st.integers(0, 38),
)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_filter_keeps_what_a_loop_keeps(index: Index, kind: str, key: str, pick: int):
    values = next(column for column in COLUMNS if column.key == key).values(index).astype(float)
    bound = float(values[pick])
    if math.isnan(bound):
        return
    holds = {
        "equals": lambda v: v == bound,
        "notEqual": lambda v: v != bound,
        "greaterThan": lambda v: v > bound,
        "greaterThanOrEqual": lambda v: v >= bound,
        "lessThan": lambda v: v < bound,
        "lessThanOrEqual": lambda v: v <= bound,
    }[kind]
    expected = [i for i, value in enumerate(values.tolist()) if not math.isnan(value) and holds(value)]
    assert find_rows(index, filters={key: {"filterType": "number", "type": kind, "filter": bound}}).tolist() == expected


def test_filters_join_and_work_on_a_search(index: Index):
    both = {"operator": "AND", "conditions": [{"type": "greaterThan", "filter": 3}, {"type": "lessThan", "filter": 9}]}
    assert find_rows(index, filters={"number": both}).tolist() == [4, 5, 6, 7, 8]
    either = {"operator": "OR", "conditions": [{"type": "equals", "filter": 3}, {"type": "equals", "filter": 9}]}
    assert find_rows(index, filters={"number": either}).tolist() == [3, 9]
    hits = [hit.feature for hit in search(index, "paris")]
    assert find_rows(index, "paris").tolist() == hits, "best first"
    assert len(hits) > 2
    below = [feature for feature in hits if feature < 20]
    assert find_rows(index, "paris", filters={"number": {"type": "lessThan", "filter": 20}}).tolist() == below
    in_order = find_rows(index, "paris", [{"colId": "number", "sort": "asc"}]).tolist()
    assert in_order == sorted(hits), "a sort that was asked for goes before the search's order"


@pytest.mark.parametrize(
    ("sort", "filters", "said"),
    [
        ([{"colId": "nothing", "sort": "asc"}], None, "unknown column 'nothing'"),
        ([], {"nothing": {"type": "equals", "filter": 1}}, "unknown column 'nothing'"),
        ([], {"rate": {"type": "around", "filter": 1}}, "unknown comparison 'around'"),
        ([], {"rate": {"type": "equals"}}, "expected one"),
        ([], {"rate": {"type": "inRange", "filter": 1}}, "expected one"),
    ],
)
def test_a_wrong_sort_or_filter_is_one_line(index: Index, sort: Any, filters: Any, said: str):
    with pytest.raises(UserError, match=re.escape(said)) as raised:
        find_rows(index, "", sort, filters)
    the_line(raised)


def test_a_row_says_what_the_index_holds(index: Index):
    row = row_of(index, 3)
    assert row["label"] == index.labels[3].text
    assert float(row["rate"]) == pytest.approx(100 * float(index["rate"][3]), rel=0.01)
    assert row["effect"] == f"{float(index['effect'][3, 0]):+.3f}".replace("-", "−")
    silent = row_of(index, len(index) - 1)
    assert silent["effect"] == "–", "what was not measured is no number"
    assert silent["tokens"] == ""


# --- pages ----------------------------------------------------------------------------------------------------------


def texts_of(tree: Any) -> str:
    """Everything a page says, joined."""
    return json.dumps(tree, ensure_ascii=False, default=lambda one: one.to_plotly_json())


@pytest.mark.parametrize(
    ("path", "search_", "says"),
    [
        ("/", "", "fires on"),
        ("/", "?q=paris&sort=rate:desc", "paris"),
        ("/feature/3", "", "the token France 3"),
        ("/feature/3", "?doc=2", "corpus.txt"),
        ("/feature/39", "", "never fires"),
        ("/feature/error", "", "misses"),
        ("/features/map", "", "principal component"),
        ("/features/effect", "", "rise of the loss"),
        ("/runs", "", "broken"),
        ("/runs/good", "", "trained direction"),
        ("/prompt", "", "--model"),
        ("/steer", "", "--model"),
        ("/compare", "", "--model"),
    ],
)
def test_every_address_shows_its_page(context: Context, path: str, search_: str, says: str):
    page = texts_of(page_at(context, path, search_))
    assert says in page
    assert '"problem"' not in page or path == "/runs", "no page fails; of the runs one is damaged on purpose"


@pytest.mark.parametrize(
    ("path", "search_", "says"),
    [
        ("/nowhere", "", "there is no page"),
        ("/feature/40", "", "this index has features 0 to 39"),
        ("/feature/-1", "", "this index has features 0 to 39"),
        ("/feature/seven", "", "expected a number from 0 to 39"),
        ("/feature/3", "?doc=12", "expected 0 to 11"),
        ("/feature/3", "?doc=x", "expected a whole number"),
        ("/features/globe", "", "unknown view"),
        ("/features/map", "?colour=beauty", "unknown colour"),
        ("/", "?filter={", "no JSON"),
        ("/", "?filter=%7B%22nothing%22%3A1%7D", "columns that there are not"),
        ("/runs/none", "", "there is no run"),
        ("/runs/..%2F..%2Fetc", "", "there is no run"),
        ("/runs/broken", "", "is damaged"),
        ("/" + "x" * 30_000, "", "characters"),
    ],
)
def test_an_address_that_names_nothing_is_one_line(context: Context, path: str, search_: str, says: str):
    page = page_at(context, path, search_).to_plotly_json()
    assert page["props"]["className"] == "problem"
    assert says in page["props"]["children"]
    assert "\n" not in page["props"]["children"]


@pytest.mark.parametrize("runs", [None, "empty", "nowhere"])
def test_a_folder_without_runs_says_how_to_make_one(index: Index, tmp_path: Path, runs: str | None):
    (tmp_path / "empty").mkdir()
    page = texts_of(page_at(Context(index, runs=tmp_path / runs if runs else None), "/runs", ""))
    assert "There are no runs" in page
    assert "interp probe" in page


def test_a_damaged_index_is_told_on_the_page(tmp_path: Path):
    folder = write_fake_index(tmp_path / "index")
    opened = Context(open_index(folder))
    (folder / "labels.json").write_text("[]")
    page = page_at(opened, "/feature/3", "").to_plotly_json()
    assert page["props"]["className"] == "problem"
    assert "labels.json is damaged" in page["props"]["children"]


def test_an_example_is_the_text_of_the_index_shaded_by_its_activation(context: Context, index: Index):
    page = texts_of(page_at(context, "/feature/3", ""))
    best = index.feature(3, window=14).top[0]
    shown = json.dumps([visible(text) for text in best.tokens], ensure_ascii=False)
    assert shown in page or all(visible(text) in page for text in best.tokens)
    assert f"{max(best.activations):.2f}" in page
    assert f"/feature/3?doc={best.document}" in page, "the whole document is one click away"


def test_previous_and_next_go_round(context: Context):
    assert '"/feature/39"' in texts_of(page_at(context, "/feature/0", ""))
    assert '"/feature/0"' in texts_of(page_at(context, "/feature/39", ""))


# --- text that means harm -------------------------------------------------------------------------------------------

RAW = ("dash_dangerously_allow_html", "dangerously_allow_html", "dangerously_allow_code", "dangerouslySetInnerHTML")


def markup_in(tree: Any, inside: str = "") -> Iterator[str]:
    """Where a page hands text to something that would read it as HTML: Markdown, frames, code, figures' labels."""
    if hasattr(tree, "to_plotly_json"):
        tree = tree.to_plotly_json()
    if isinstance(tree, Mapping):
        if tree.get("type") in ("Markdown", "Iframe", "DangerouslySetInnerHTML", "Script"):
            yield f"{inside}: a {tree['type']}"
        for key, value in tree.items():
            if key in RAW and value is not False and key != "dangerously_allow_code":
                yield f"{inside}: {key}"
            yield from markup_in(value, f"{inside}.{key}")
    elif isinstance(tree, list | tuple):
        for one in tree:
            yield from markup_in(one, inside)
    elif isinstance(tree, str) and _is_read(tree, inside):
        yield f"{inside}: {tree}"


def _is_read(text: str, place: str) -> bool:
    """Would markup in a text at this place of a page be more than text? In a figure's labels, and in an address."""
    if ".figure" in place:
        return re.search(r"<(?!/?(b|br)>)[a-z!/]", text, re.IGNORECASE) is not None
    return re.search(r"(href|src)$", place) is not None and not re.match(r"/(?!/)|#", text)


def test_the_checker_finds_what_would_be_read_as_html():
    from dash import dcc, html

    planted = [
        dcc.Markdown("x"),
        html.Iframe(srcDoc="x"),
        html.A(href="javascript:alert(1)"),
        html.A(href="//example.org"),
        dcc.Graph(figure={"layout": {"title": {"text": "<img src=x>"}}}),
    ]
    for one in planted:
        assert list(markup_in(one)), one
    assert list(markup_in(html.P("<img src=x>", title="<b>"))) == [], "React writes these as text"


@given(
    texts=st.lists(st.one_of(st.sampled_from(NASTY), st.text(max_size=12)), min_size=12, max_size=12),
    label=st.one_of(st.sampled_from(NASTY), st.text(max_size=30)),
)
@settings(
    deadline=None,
    max_examples=12,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_no_text_of_a_corpus_reaches_a_page_as_html(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], label: str
):
    clean = [text.encode("utf-8", "replace").decode() for text in texts]
    folder = tmp_path_factory.mktemp("nasty") / "index"
    write_fake_index(folder, features=6, documents=3, texts=clean, labels=[label.encode("utf-8", "replace").decode()])
    nasty = Context(open_index(folder))
    for path in ("/", "/feature/0", "/feature/1?doc=0", "/feature/error", "/features/map", "/features/effect"):
        page = page_at(nasty, *path.partition("?")[::2])
        assert list(markup_in(page)) == []
        told = texts_of(page)
        assert '"problem"' not in told
        assert not any(turned in told for turned in "\u202a\u202b\u202d\u202e\u2066\u2067\u2068")
        assert row_of(nasty.index, 0)["label"] == visible(nasty.index.labels[0].text)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=600))
@settings(deadline=None)
def test_visible_text_hides_nothing_and_turns_nothing(text: str):
    shown = visible(text)
    assert len(shown) <= 8 * 400 + 40, "a huge token stays small"
    for character in shown:
        assert unicodedata.bidirectional(character) not in (
            "LRE",
            "RLE",
            "LRO",
            "RLO",
            "PDF",
            "LRI",
            "RLI",
            "FSI",
            "PDI",
        )
        assert unicodedata.category(character) not in ("Cc", "Zl", "Zp")
    if text.isprintable() and len(text) <= 400:
        assert shown == text, "plain text stays as it is"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\n", "↵"),
        ("\t", "⇥"),
        ("\x00", "‹U+0000›"),
        ("\u202eabc", "‹U+202E›abc"),
        ("\u200b", "‹U+200B›"),
        ("\ufeff", "‹U+FEFF›"),
        (" café ", " café "),
        ("a" * 401, "a" * 400 + "… (401 characters)"),
    ],
)
def test_what_has_no_shape_is_spelled_out(text: str, shown: str):
    assert visible(text) == shown


# --- who may ask ----------------------------------------------------------------------------------------------------


def test_our_own_browser_is_answered(address: str):
    port = urlsplit(address).port
    assert ask(address).status == 200
    for host in ("localhost", "127.0.0.1", "[::1]"):
        assert ask(address, headers={"Host": f"{host}:{port}"}).status == 200
    own = {"Sec-Fetch-Site": "same-origin", "Origin": address.rstrip("/")}
    assert ask(address, "/_dash-layout", own).status == 200
    assert ask(address, headers={"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "example.org"},
        {"Host": "example.org:8050"},
        {"Host": "127.0.0.1"},
        {"Host": "127.0.0.1:1"},
        {"Host": "127.0.0.1.example.org:8050"},
        {"Host": ""},
        {"Origin": "https://example.org"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
        {"X-Forwarded-Host": "127.0.0.1", "Host": "example.org"},
    ],
)
@pytest.mark.parametrize("path", ["/", "/_dash-layout", "/_dash-dependencies", "/assets/explorer.css"])
def test_others_are_refused_with_one_line(address: str, headers: dict[str, str], path: str):
    answer = ask(address, path, headers)
    assert answer.status == 403
    assert len(answer.text.strip().splitlines()) == 1
    assert "fake" not in answer.text


def test_a_foreign_page_cannot_call_back(address: str):
    body = json.dumps({"output": "page.children", "inputs": [], "changedPropIds": []})
    answer = ask(address, "/_dash-update-component", {"Origin": "https://example.org"}, body)
    assert answer.status == 403


def test_every_answer_keeps_the_page_to_itself(address: str):
    for path in ("/", "/_dash-layout", "/assets/explorer.css", "/nowhere"):
        headers = ask(address, path).headers
        policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
        assert policy["default-src"] in ("'none'", "'self'")
        assert policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == "'none'"
        assert "'unsafe-inline'" not in policy["script-src"]
        assert not any("//" in sources or "*" in sources for sources in policy.values()), "no other machine"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "no-referrer"
    assert ask(address, "/_dash-layout").headers["Cache-Control"] == "no-store"
    assert "no-store" in ask(address, headers={"Host": "example.org"}).headers.get("Cache-Control", "no-store")


def test_the_page_names_no_other_machine(address: str):
    assert re.findall(r"""(?:src|href)=["'](https?:)?//""", ask(address).text) == []


def test_elsewhere_a_token_is_demanded(context: Context):
    with served(context, "127.0.0.2") as address:
        there = urlsplit(address)
        token = there.query.removeprefix("token=")
        assert len(token) > 20
        for path in ("/", "/_dash-layout", "/assets/explorer.css", "/?token=", f"/?token={token[:-1]}", "/?token=é"):
            refused = ask(address, path.replace("é", "%C3%A9"))
            assert refused.status == 403, path
            assert token not in refused.text
        assert ask(address, headers={"Cookie": "interp_token=wrong"}).status == 403
        assert ask(address, headers={"Cookie": "interp_token=\xff\xfe"}).status == 403

        answer = ask(address, f"/feature/3?doc=1&token={token}")
        assert answer.status in (302, 303, 307)
        assert answer.headers["Location"] == "/feature/3?doc=1", "the token does not stay in the address"
        cookie = answer.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        mine = {"Cookie": cookie.split(";")[0]}
        assert ask(address, "/feature/3?doc=1", mine).status == 200
        assert ask(address, "/_dash-layout", mine).status == 200
        assert ask(address, "/", {**mine, "Host": "example.org"}).status == 403, (
            "a token does not excuse a foreign name"
        )


def test_two_servers_have_two_tokens(context: Context):
    with served(context, "127.0.0.2") as one, served(context, "127.0.0.2") as other:
        assert urlsplit(one).query != urlsplit(other).query


def test_two_servers_of_one_host_keep_their_cookies_apart(context: Context):
    """Browsers give a cookie to every port of a host: under one name, the second server would shut the first out."""
    with served(context, "127.0.0.2") as one, served(context, "127.0.0.2") as other:
        cookies = [
            ask(there, f"/?{urlsplit(there).query}").headers["Set-Cookie"].split(";")[0] for there in (one, other)
        ]
        for there in (one, other):
            assert ask(there, headers={"Cookie": "; ".join(cookies)}).status == 200


def test_an_ipv6_address_is_served_and_printed_as_one(context: Context):
    try:
        with socket.socket(socket.AF_INET6) as there:
            there.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    with served(context, "::1") as address:
        assert re.fullmatch(r"http://\[::1\]:\d+/", address)
        assert ask(address).status == 200
        assert ask(address, headers={"Host": "[::2]:80"}).status == 403


def test_a_closed_server_listens_no_more(context: Context):
    with served(context) as address:
        assert ask(address).status == 200
    with pytest.raises(ConnectionRefusedError):
        ask(address)


def test_on_this_machine_no_token_is_asked_for(address: str):
    assert "token" not in address


def test_a_redirect_stays_here(context: Context):
    with served(context, "127.0.0.2") as address:
        token = urlsplit(address).query
        assert urlsplit(ask(address, f"//example.org/?{token}").headers.get("Location", "/")).netloc == ""


# --- the command ----------------------------------------------------------------------------------------------------


def test_a_port_in_use_is_one_line(context: Context):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"127.0.0.1:{port}") as raised:
            prepare(context, "127.0.0.1", port)
    assert "--port" in the_line(raised)


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 70_000), ("192.0.2.1", 0), ("no such host", 0)])
def test_an_address_that_is_not_ours_is_one_line(context: Context, host: str, port: int):
    with pytest.raises(UserError, match="cannot serve") as raised:
        prepare(context, host, port)
    the_line(raised)


def test_a_folder_that_is_no_index_ends_with_2_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main(["explore", str(tmp_path)])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1
    assert "is no index" in said


def test_an_sae_without_a_model_is_refused(index: Index, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main(["explore", str(index.folder), "--sae", "x"])
    assert stop.value.code == 2
    assert "--model" in capsys.readouterr().err


def test_the_command_prints_its_address_serves_and_ends_quietly(index: Index):
    """As a person runs it: one line, no request log, Ctrl-C ends it with 0, and no torch comes in."""
    import signal

    script = "import sys; from interp.cli import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    command = [sys.executable, "-c", script, "explore", str(index.folder), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert found, line
        assert ask(found[0]).status == 200
        assert ask(found[0], headers={"Host": "example.org"}).status == 403
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0
    assert err == ""
    assert out.splitlines()[-1] == "False", "torch was loaded without a model"


def test_the_explorer_needs_no_torch():
    """Each of its modules, in a process where torch cannot be imported."""
    from test_layers import import_without_torch

    root = Path(__file__).parents[1]
    files = (root / "interp" / "views" / "explorer").rglob("*.py")
    names = [".".join(file.relative_to(root).with_suffix("").parts) for file in files if file.stem != "__init__"]
    assert "interp.views.explorer.app" in names
    done = import_without_torch(*names)
    assert done.returncode == 0, done.stderr


def test_the_texts_of_the_fake_index_are_all_there(index: Index):
    """What the tests above take for granted of it."""
    assert index.verify() == []
    assert set(index["token"].tolist()) == set(range(len(TEXTS)))
    for feature in range(len(index) - 1):
        rows, values = index.firings(feature)
        assert len(rows) == round(float(index["rate"][feature]) * index.tokens_counted)
        assert float(values.max()) == pytest.approx(float(index["maximum"][feature]))
        assert int(index["histogram"][feature].sum()) == len(rows)
        assert bool((np.diff(rows) > 0).all())

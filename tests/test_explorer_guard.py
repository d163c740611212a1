"""Who may ask the explorer, and the command that serves it: hosts, origins, tokens, ports."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from explorer_server import ask, served, with_runs
from fake_index import write_fake_index
from refusals import the_line

from interp.cli import main
from interp.errors import UserError
from interp.features.read.index import Index, open_index
from interp.views.explorer.context import Context
from interp.views.explorer.serve import prepare


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return open_index(write_fake_index(tmp_path_factory.mktemp("explorer") / "index"))


@pytest.fixture(scope="module")
def context(index: Index, tmp_path_factory: pytest.TempPathFactory) -> Context:
    return with_runs(index, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def address(context: Context) -> Iterator[str]:
    with served(context) as there:
        yield there


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
    # A shell starts background jobs with Ctrl-C ignored, and so would be ours if the tests run as one.
    with_ctrl_c = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, text=True, preexec_fn=with_ctrl_c, **pipes)  # noqa: PLW1509 - no other thread
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


# --- tunnels and proxies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["localhost:9000", "127.0.0.1:9000", "cluster.example.org"])
def test_a_tunnel_with_another_port_is_told_what_works(address: str, host: str):
    """`ssh -L 9000:127.0.0.1:8050`: the browser says localhost:9000."""
    port = urlsplit(address).port
    answer = ask(address, headers={"Host": host})
    assert answer.status == 403
    assert f"answers at 127.0.0.1:{port}, not at {host}" in answer.text
    assert f"same port number at both ends (ssh -L {port}:127.0.0.1:{port} MACHINE)" in answer.text
    assert "--host 0.0.0.0" in answer.text
    assert "token" in answer.text
    assert len(answer.text.strip().splitlines()) == 1
    assert ask(address, headers={"Host": f"localhost:{port}"}).status == 200, "as the advice says"


@pytest.fixture
def proxied(context: Context, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that a proxy serves under a prefix, which it takes off again before it asks."""
    monkeypatch.setenv("DASH_REQUESTS_PATHNAME_PREFIX", "/proxy/8050/")
    with served(context, "127.0.0.2") as there:
        yield there


def test_behind_a_prefix_the_token_leads_to_the_same_page_under_the_prefix(proxied: str):
    token = urlsplit(proxied).query
    for path, there in (
        ("/", "/proxy/8050/"),
        ("/feature/3?doc=1&", "/proxy/8050/feature/3?doc=1"),
        ("/runs?", "/proxy/8050/runs"),
        ("//example.org/", "/proxy/8050/example.org/"),
    ):
        answer = ask(proxied, f"{path}{'' if '?' in path else '?'}{token}")
        assert answer.status in (302, 303, 307)
        assert answer.headers["Location"] == there
        assert "Path=/proxy/8050/" in answer.headers["Set-Cookie"], "no other service of the host gets it"
    mine = {"Cookie": answer.headers["Set-Cookie"].split(";")[0]}
    page = ask(proxied, "/", mine)
    assert page.status == 200
    assert re.findall(r'(?:src|href)="(/[^"]*)"', page.text)
    assert [link for link in re.findall(r'(?:src|href)="(/[^"]*)"', page.text) if not link.startswith("/proxy/")] == []


def shown(address: str, path: str, cookie: Mapping[str, str]) -> str:
    """What the page at a path of the browser's address shows, as the browser asks for it."""
    outputs = [{"id": name, "property": "children"} for name in ("page", "menu")]
    inputs = [
        {"id": "address", "property": "pathname", "value": path},
        {"id": "address", "property": "search", "value": ""},
    ]
    body = {"output": "..page.children...menu.children..", "outputs": outputs, "inputs": inputs, "changedPropIds": []}
    told = {"Content-Type": "application/json", **cookie}
    answer = ask(address, "/_dash-update-component", told, json.dumps(body))
    assert answer.status == 200, answer.text
    return json.dumps(json.loads(answer.text))


def test_behind_a_prefix_pages_are_found_and_their_links_stay_under_it(proxied: str):
    answer = ask(proxied, f"/?{urlsplit(proxied).query}")
    cookie = {"Cookie": answer.headers["Set-Cookie"].split(";")[0]}
    for path in ("/proxy/8050/", "/proxy/8050/feature/3", "/proxy/8050/runs"):
        text = shown(proxied, path, cookie)
        assert "there is no page" not in text
        links = re.findall(r'"href": ?"([^"]*)"', text)
        assert links
        assert [link for link in links if not link.startswith(("/proxy/8050/", "#"))] == []


def test_without_a_prefix_links_begin_at_the_root(address: str):
    """Negative control of the two above: nothing is put in front where no proxy is."""
    text = shown(address, "/feature/3", {})
    assert "there is no page" not in text
    assert '"/features"' in text.replace(" ", "")
    assert "proxy" not in text
    assert "there is no page" in shown(address, "/proxy/8050/feature/3", {})

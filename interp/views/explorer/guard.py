"""Who may ask: this machine's own browser, on pages that came from here.

A page of another site may try to reach 127.0.0.1 through the user's browser: by a name that it points there (DNS
rebinding: the Host header then is not ours), or by a request of its own (then the browser says where from). Both are
refused. Bound to anything but this machine, a token is demanded as well.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from urllib.parse import urlencode, urlsplit

from dash import Dash
from flask import Response, redirect, request

COOKIE = "interp_token"
OWN = ("same-origin", "none")  # what Sec-Fetch-Site says of our pages, and of an address that was typed
LOCAL = ("127.0.0.1", "localhost", "[::1]", "::1")


def is_local(host: str) -> bool:
    """Is this address reached from this machine alone?"""
    return host in LOCAL


def hosts_of(host: str, port: int) -> list[str]:
    """What the Host header may say."""
    names = [name for name in LOCAL if name != "::1"] if is_local(host) else [in_address(host)]
    return [f"{name}:{port}" for name in names] + ([*names] if port == 80 else [])


def in_address(host: str) -> str:
    """The host as an address has it: IPv6 in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def protect(app: Dash, hosts: Sequence[str] | None, token: str | None) -> None:
    """Refuse foreign requests, and set the headers that keep a page to itself. `hosts` None: any (then a token).

    Behind a proxy that serves it under a prefix (DASH_REQUESTS_PATHNAME_PREFIX), redirects and cookie stay under that.
    """
    outside, inside = (str(app.config[f"{name}_pathname_prefix"]) for name in ("requests", "routes"))
    scripts = " ".join(app.csp_hashes())
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src 'self' {scripts}",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "font-src 'self' data:",
            "connect-src 'self'",
            "worker-src blob:",
            "form-action 'none'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
        ]
    )

    def check() -> Response | None:
        if hosts is not None and request.host not in hosts:
            return _refused(_another_name(hosts[0], request.host[:80]))
        site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
        kind = tuple(request.headers.get(f"Sec-Fetch-{name}") for name in ("Mode", "Dest"))
        typed = kind == ("navigate", "document") and request.method == "GET"  # a link in a mail, and no frame
        if site is not None and site not in OWN and not typed:
            return _refused("a page of another site asked; open the address yourself")
        if origin is not None and urlsplit(origin).netloc != request.host:
            return _refused("a page of another site asked; open the address yourself")
        return _check_token(token, outside, inside) if token is not None else None

    def harden(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = policy
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["X-Frame-Options"] = "DENY"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        if not request.path.startswith(("/_dash-component-suites", "/assets")):
            response.headers["Cache-Control"] = "no-store"
        return response

    app.server.before_request(check)
    app.server.after_request(harden)


def _cookie() -> str:
    """A cookie of its own for each port: browsers give one to every port of a host."""
    return f"{COOKIE}_{request.environ.get('SERVER_PORT', '')}"


def _another_name(here: str, came: str) -> str:
    """What a tunnel with another port number at its near end, or a proxy, is told."""
    name, _, port = here.rpartition(":")
    return (
        f"this explorer answers at {here}, not at {came}; through a tunnel, take the same port number at both ends "
        f"(ssh -L {port}:{name}:{port} MACHINE) and open {here}; or start it with --host 0.0.0.0, and open the address "
        "with the token that it prints"
    )


def _check_token(token: str, outside: str, inside: str) -> Response | None:
    """Let in who has the token; from an address that holds it, go on to the same one without, under the prefix."""
    given = request.args.get("token")
    if given is not None and secrets.compare_digest(given.encode(), token.encode()):
        rest = urlencode([(k, v) for k, v in request.args.items(multi=True) if k != "token"])
        path = outside + request.path.removeprefix(inside).lstrip("/")
        answer = redirect(f"{path}?{rest}" if rest else path)
        answer.set_cookie(_cookie(), token, path=outside, httponly=True, samesite="Strict")
        return answer  # type: ignore[return-value]
    if secrets.compare_digest(request.cookies.get(_cookie(), "").encode(), token.encode()):
        return None
    return _refused("this explorer wants its token; open the address that it printed when it started")


def _refused(why: str) -> Response:
    return Response(f"refused: {why}\n", 403, mimetype="text/plain")

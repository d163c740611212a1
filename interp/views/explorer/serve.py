"""Serve the explorer on an address of this machine."""

from __future__ import annotations

import logging
import secrets
import socket

from werkzeug.serving import BaseWSGIServer, make_server

from interp.errors import UserError
from interp.views.explorer.app import build_app
from interp.views.explorer.context import Context
from interp.views.explorer.guard import hosts_of, in_address, is_local, protect

ANY = ("0.0.0.0", "::")  # every address of this machine: which name is used is not known beforehand


def prepare(context: Context, host: str, port: int) -> tuple[BaseWSGIServer, str]:
    """A server that is bound and not yet running, and the address to open.

    Raises UserError for a port in use or an address that is not this machine's.
    """
    token = None if is_local(host) else secrets.token_urlsafe(24)
    listening = _listen(host.strip("[]"), port)
    app = build_app(context)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    port = int(listening.getsockname()[1])
    server = make_server(host.strip("[]"), port, app.server, threaded=True, fd=listening.fileno())
    listening.close()  # werkzeug made a copy of it; this one would go on listening when the server is closed
    protect(app, None if host in ANY else hosts_of(host, port), token)
    shown = f"http://{in_address(host) if host not in ANY else socket.gethostname()}:{port}/"
    return server, shown + (f"?token={token}" if token else "")


def _listen(host: str, port: int) -> socket.socket:
    """A socket bound before anything is built: werkzeug would end the process where it cannot bind."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(64)
    except (OSError, OverflowError) as error:
        listening.close()
        raise UserError(
            f"cannot serve at {host}:{port} ({error}); choose another --port, 0 for any free one"
        ) from error
    return listening

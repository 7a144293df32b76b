"""The page served on 127.0.0.1, with what it asks for: details of a plan, a search anew.

Only this machine reaches it, and of its programs only those that know the token of the address:
requests need it, a Host header of the loopback, and no other origin. Nothing is read from disk.
"""

import json
import math
import re
import secrets
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from parplan._strict import parse_json
from parplan.errors import ParplanError, one_line
from parplan.experiments.explorer.job import ExploredJob
from parplan.experiments.explorer.page import library, page

LOOPBACK = "127.0.0.1"
MOST_BODY = 100_000
"""Bytes of a request."""

SECONDS = 30
"""A request that is not sent whole by then is dropped."""

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
        "style-src 'unsafe-inline'; img-src data: blob:; connect-src 'self'; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
}


class ExplorerServer(ThreadingHTTPServer):
    """Serves one job; raises `ParplanError` for a port that cannot be had."""

    daemon_threads = True

    def __init__(self, job: ExploredJob, port: int = 0, token: str | None = None) -> None:
        self.job = job
        self.token = secrets.token_urlsafe(24) if token is None else token
        self.searching = threading.Lock()
        self.asked: tuple[str, ExploredJob] = (_key({}), job)
        self.overtaken = threading.Event()
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except (OSError, OverflowError) as error:
            raise ParplanError(
                f"port {port} of {LOOPBACK}: cannot be served on: "
                f"{getattr(error, 'strerror', None) or error}; --port 0 takes a free one"
            ) from None

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{LOOPBACK}:{self.server_port}/?token={self.token}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A page that was closed in between is no error."""


def _key(sizes: dict[str, Any]) -> str:
    return json.dumps(sizes, sort_keys=True)


class _Handler(BaseHTTPRequestHandler):
    server: ExplorerServer
    timeout = SECONDS
    server_version = "parplan"
    sys_version = ""

    def do_GET(self) -> None:
        if not self._allowed():
            return
        path = urlsplit(self.path).path
        if path == "/":
            self._send(200, "text/html; charset=utf-8", page(self.server.job, served=True))
        elif path == "/library.js":
            self._send(200, "text/javascript; charset=utf-8", library(), cached=True)
        else:
            self._refuse(404, "there is no such page")

    def do_POST(self) -> None:
        if not self._allowed():
            return
        answers: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "/details": self._details,
            "/search": self._search,
            "/improve": self._improve,
        }
        answer = answers.get(urlsplit(self.path).path)
        if answer is None:
            self._refuse(404, "there is no such page")
            return
        try:
            body = self._body()
            self._json(200, answer(body))
        except ParplanError as error:
            self._refuse(400, str(error))
        except OSError:  # The page was closed in between.
            raise
        except Exception as error:
            said = one_line(f"{type(error).__name__}: {error}")
            self._refuse(500, f"internal error: {said}; this is a mistake in parplan")

    def _details(self, body: dict[str, Any]) -> dict[str, Any]:
        """Of a plan, on the job with the sizes that the page has now."""
        plan, sizes = body.get("plan"), body.get("sizes", {})
        if not isinstance(plan, dict) or not isinstance(sizes, dict):
            raise ParplanError("expected a plan and sizes")
        return self.server.job.resized(sizes).of_plan(plan)

    def _search(self, body: dict[str, Any]) -> dict[str, Any]:
        """The candidates of the job with other sizes; it ends the search that is going on."""
        self.server.overtaken.set()
        with self.server.searching:
            found = self.server.job.asked(body)
            self.server.asked = _key(body), found
            return found.table()

    def _improve(self, body: dict[str, Any]) -> dict[str, Any]:
        """The candidates after a search of everything, unless another one is asked meanwhile."""
        self.server.overtaken.set()
        overtaken = self.server.overtaken = threading.Event()

        def clock() -> float:
            return math.inf if overtaken.is_set() else time.perf_counter()

        with self.server.searching:
            key, job = self.server.asked
            if key != _key(body):
                job = self.server.job.asked(body) if body else self.server.job
            found = job if job.is_whole else job.improved(clock=clock)
            if overtaken.is_set():
                raise ParplanError("another search was asked for")
            self.server.asked = _key(body), found
            return found.table()

    def _body(self) -> dict[str, Any]:
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,9}", length) or int(length) > MOST_BODY:
            raise ParplanError("a request of this length is not read")
        try:
            body = parse_json(self.rfile.read(int(length)), "")
        except ParplanError:
            raise ParplanError("the request is no JSON") from None
        if not isinstance(body, dict):
            raise ParplanError("the request is no table")
        return body

    def _allowed(self) -> bool:
        """Whether the request comes from the page; refuses it otherwise."""
        own = f"{LOOPBACK}:{self.server.server_port}"
        origin = self.headers.get("Origin")
        site = self.headers.get("Sec-Fetch-Site", "same-origin")
        if self.headers.get("Host") not in (own, f"localhost:{self.server.server_port}"):
            self._refuse(421, "another host was meant")
        elif origin not in (None, f"http://{self.headers['Host']}"):
            self._refuse(403, "another origin asks")
        elif site not in ("same-origin", "none"):
            self._refuse(403, "another site asks")
        elif not secrets.compare_digest(self._token().encode(), self.server.token.encode()):
            self._refuse(403, "the token is missing or wrong; open the address that was printed")
        else:
            return True
        return False

    def _token(self) -> str:
        asked = parse_qs(urlsplit(self.path).query).get("token", [""])[0]
        return self.headers.get("X-Parplan-Token") or asked

    def _refuse(self, code: int, why: str) -> None:
        self._json(code, {"error": why})

    def _json(self, code: int, value: dict[str, Any]) -> None:
        self._send(code, "application/json", json.dumps(value, allow_nan=False))

    def _send(self, code: int, kind: str, text: str, *, cached: bool = False) -> None:
        content = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in HEADERS.items():
            if not (cached and name == "Cache-Control"):
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged."""

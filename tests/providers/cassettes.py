"""A model provider that plays recordings: real HTTP on loopback, each cassette in its order, with faults on demand.

with CassetteServer(tapes) as server:
    ...  # point a client at server.base_url(tape, exchange)
assert [entry.fault for entry in server.ledger] == [...]
"""

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from tests.providers.recordings import Exchange

PIECE_BYTES = 512
HTML = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"


class Fault(StrEnum):
    """What happens to a request instead of its recorded answer."""

    RATE_LIMIT = "429 with Retry-After"
    RATE_LIMIT_BARE = "429"
    SERVER_ERROR = "500"
    CUT_HARD = "stream cut by a reset"
    CUT_POLITELY = "stream cut, connection closed in order"
    SILENCE = "silence"
    HTML = "HTML"
    REPEATED_CHUNK = "duplicate chunk"


@dataclass(frozen=True)
class Broken:
    """`at` says where, as a part of the answer in [0, 1); `seconds` how long to be silent, or what Retry-After says."""

    fault: Fault
    at: float = 0.0
    seconds: float = 0.0


@dataclass
class Entry:
    """One request of the ledger. `number` is the exchange's place on its tape, null where the tape had ended; `at` is
    the server's monotonic clock. `whole`: the recorded answer went out to its last byte."""

    tape: int
    number: int | None
    at: float
    path: str
    body: bytes
    broken: Broken | None
    whole: bool = False


Plan = Callable[[int, int, int], Broken | None]
"""Tape, place on it, how often that place was asked for before: what to break."""


def _nothing(tape: int, number: int, before: int) -> None:
    return None


class CassetteServer:
    """`tapes` are played apart from each other: the same request may have different answers on different ones.

    A place on a tape counts as played once its recorded answer went out whole, or damaged beyond use by its plan."""

    def __init__(self, tapes: Sequence[Sequence[Exchange]], plan: Plan = _nothing) -> None:
        self.ledger: list[Entry] = []
        """In the order of arrival."""
        self._tapes = tapes
        self._plan = plan
        self._played = [0] * len(tapes)
        self._asked: dict[tuple[int, int], int] = {}
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), self)
        self._thread = threading.Thread(target=self._server.serve_forever, name="cassettes", daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def base_url(self, tape: int) -> str:
        """What a client of the tape's provider takes for its base URL."""
        path = self._tapes[tape][0].path if self._tapes[tape] else "/v1/responses"
        for end in ("/chat/completions", "/responses", "/v1/messages"):
            path = path.removesuffix(end)
        return f"{self.url}/tape/{tape}{path}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def asked(self, tape: int) -> list[Entry]:
        """Of one tape."""
        return [entry for entry in self.ledger if entry.tape == tape]

    def played(self, tape: int) -> int:
        """How many places of the tape have had their answer."""
        return self._played[tape]

    def take(self, tape: int, path: str, body: bytes) -> tuple[Entry, Exchange | None]:
        """Note a request, and find what the tape has for it; None at its end."""
        at = time.monotonic()
        with self._lock:
            number = self._played[tape]
            if number >= len(self._tapes[tape]):
                entry, exchange = Entry(tape, None, at, path, body, None), None
            else:
                before = self._asked.get((tape, number), 0)
                self._asked[tape, number] = before + 1
                broken = self._plan(tape, number, before)
                if broken is None or broken.fault is Fault.REPEATED_CHUNK:
                    self._played[tape] += 1
                entry, exchange = Entry(tape, number, at, path, body, broken), self._tapes[tape][number]
            self.ledger.append(entry)
        return entry, exchange


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone between two requests is no error."""

    def __init__(self, address: tuple[str, int], cassettes: CassetteServer) -> None:
        super().__init__(address, _Handler)
        self.cassettes = cassettes


class _Gone(Exception):
    """The connection was ended on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        _, _, tape, path = self.path.split("/", 3)
        entry, exchange = self.server.cassettes.take(int(tape), f"/{path}", body)
        try:
            if exchange is None:
                error = {"message": "the tape has ended", "type": "invalid_request_error", "code": "tape_ended"}
                self._send(400, {"Content-Type": "application/json"}, json.dumps({"error": error}).encode())
            else:
                self._play(exchange, entry)
        except (OSError, _Gone):  # the client has gone, or we have
            self.close_connection = True
            entry.whole = False

    def _play(self, exchange: Exchange, entry: Entry) -> None:
        headers, body = dict(exchange.headers), exchange.body
        match entry.broken:
            case None:
                self._send(exchange.status, headers, body, entry)
            case Broken(fault=Fault.RATE_LIMIT | Fault.RATE_LIMIT_BARE | Fault.SERVER_ERROR) as broken:
                self._refuse(broken)
            case Broken(fault=Fault.HTML):
                self._send(200, {"content-type": "text/html"}, HTML)
            case Broken(fault=Fault.SILENCE) as broken:
                self._be_silent(broken.seconds)
            case Broken(fault=Fault.CUT_HARD | Fault.CUT_POLITELY) as broken:
                self._cut(exchange, broken)
            case Broken(fault=Fault.REPEATED_CHUNK) as broken:
                self._send(exchange.status, headers, repeat_event(body, broken.at), entry)

    def _refuse(self, broken: Broken) -> None:
        limited = broken.fault is not Fault.SERVER_ERROR
        after = {"retry-after": f"{broken.seconds:g}"} if broken.fault is Fault.RATE_LIMIT else {}
        kind = "rate_limit_error" if limited else "api_error"
        body = {"type": "error", "error": {"type": kind, "message": "as planned", "code": None}}
        self._send(429 if limited else 500, {"content-type": "application/json", **after}, json.dumps(body).encode())

    def _be_silent(self, seconds: float) -> None:
        """Until the time is over or the client goes."""
        self.connection.settimeout(seconds)
        with suppress(TimeoutError):
            self.connection.recv(1)
        raise _Gone

    def _cut(self, exchange: Exchange, broken: Broken) -> None:
        kept = exchange.body[: int(len(exchange.body) * broken.at)]
        polite = broken.fault is Fault.CUT_POLITELY
        # Announced, for nobody else's request shall be on its way over a connection that is about to be closed.
        self._head(exchange.status, {**exchange.headers, **({"Connection": "close"} if polite else {})})
        self._pieces(kept)
        if polite:
            self.wfile.write(b"0\r\n\r\n")
        else:
            # With this option a close sends a reset instead of a farewell.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        raise _Gone

    def _send(self, status: int, headers: Mapping[str, str], body: bytes, entry: Entry | None = None) -> None:
        """Chunked, as streams are and as JSON may be. `entry` is that of a recorded answer."""
        self._head(status, headers)
        self._pieces(body)
        if entry is not None:
            entry.whole = True
        self.wfile.write(b"0\r\n\r\n")

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _pieces(self, body: bytes) -> None:
        for start in range(0, len(body), PIECE_BYTES):
            piece = body[start : start + PIECE_BYTES]
            self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        """The ledger says it all."""


def repeat_event(body: bytes, at: float) -> bytes:
    """The same stream with one of its events twice; other bodies as they are."""
    gap = b"\r\n\r\n" if b"\r\n\r\n" in body else b"\n\n"
    events = body.split(gap)
    places = [place for place, event in enumerate(events) if b"data:" in event and b"[DONE]" not in event]
    if not places:
        return body
    place = places[int(len(places) * at)]
    return gap.join([*events[: place + 1], *events[place:]])

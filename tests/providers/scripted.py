"""A model provider that answers by rules: real HTTP on loopback, in the dialects of the real ones, with a ledger.

with ScriptedProvider() as provider:
    provider.on(lambda ask: "capital" in ask.said("user"), Say("Paris"))
    ...  # point a client at provider.url
assert [ask.model for ask in provider.ledger] == [...]
"""

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from tests.providers.asked import Ask, read
from tests.providers.wire import Answer, Call, stream, whole

Arguments = Mapping[str, Any] | str


@dataclass(frozen=True)
class Say:
    """What the model says: text, tool calls as (name, arguments), or both. `finish` follows unless given.

    Arguments given as text are sent as they stand, well-formed or not. `seconds` passes before the first byte.
    """

    text: str = ""
    calls: Sequence[tuple[str, Arguments]] = ()
    finish: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Refuse:
    """An answer that is no model's: a status with a body, as the server or something before it sends them."""

    status: int
    body: str = '{"error": {"message": "scripted", "type": "server_error", "code": null}}'
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})


Said = Say | Refuse
Script = Said | Callable[[Ask], Said]


@dataclass
class Rule:
    when: Callable[[Ask], bool]
    script: Script
    times: int | None
    used: int = 0


@dataclass(frozen=True)
class Served:
    """What became of a request; `sent` is false where the client had gone before the answer was out."""

    ask: Ask
    said: Said
    sent: bool
    input_tokens: int = 0
    output_tokens: int = 0


class ScriptedProvider:
    """The first rule that fits answers; what none fits is answered with 400 and noted in `unscripted`."""

    def __init__(self) -> None:
        self.ledger: list[Ask] = []
        """Every request, in the order of arrival."""
        self.served: list[Served] = []
        self.unscripted: list[Ask] = []
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), self)
        self._thread = threading.Thread(target=self._server.serve_forever, name="provider", daemon=True)

    @property
    def url(self) -> str:
        """The base URL, as people write it for an OpenAI-compatible endpoint."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def on(self, when: Callable[[Ask], bool], script: Script, *, times: int | None = None) -> None:
        """Answer so whenever `when` holds, at most `times` times."""
        self._rules.append(Rule(when, script, times))

    def say(self, *scripts: Script) -> None:
        """Answer whatever is asked next with these, one after the other."""
        for script in scripts:
            self.on(lambda ask: True, script, times=1)

    def take(self, path: str, headers: Mapping[str, str], body: Mapping[str, Any]) -> tuple[Ask, Said] | None:
        """Note a request and find its answer; None for a path that no model answers on."""
        with self._lock:
            ask = read(len(self.ledger), time.monotonic(), path, headers, body)
            if ask is None:
                return None
            self.ledger.append(ask)
            script = self._find(ask)
        return ask, script(ask) if callable(script) else script

    def _find(self, ask: Ask) -> Script:
        for rule in self._rules:
            if (rule.times is None or rule.used < rule.times) and rule.when(ask):
                rule.used += 1
                return rule.script
        self.unscripted.append(ask)
        error = {"message": "no rule fits this request", "type": "invalid_request_error", "code": "unscripted"}
        return Refuse(400, json.dumps({"error": error}))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], provider: ScriptedProvider) -> None:
        super().__init__(address, _Handler)
        self.provider = provider


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        taken = self.server.provider.take(self.path, headers, json.loads(raw))
        if taken is None:
            self._send(Refuse(404))
            return
        ask, said = taken
        answer = None if isinstance(said, Refuse) else _answer_of(ask, said, len(raw))
        try:
            if isinstance(said, Refuse):
                self._send(said)
            elif answer is not None:
                time.sleep(said.seconds)
                self._answer(ask, answer)
            sent = True
        except OSError:  # the client has gone
            sent, self.close_connection = False, True
        tokens = (answer.input_tokens, answer.output_tokens) if answer else (0, 0)
        self.server.provider.served.append(Served(ask, said, sent, *tokens))

    def _answer(self, ask: Ask, answer: Answer) -> None:
        if not ask.stream:
            self._send(Refuse(200, json.dumps(whole(ask, answer))))
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in stream(ask, answer):
            self.wfile.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def _send(self, refuse: Refuse) -> None:
        body = refuse.body.encode()
        self.send_response(refuse.status)
        for name, value in refuse.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """The ledger says it all."""


def _answer_of(ask: Ask, say: Say, size: int) -> Answer:
    calls = tuple(
        Call(f"call_{ask.number}_{place}", name, given if isinstance(given, str) else json.dumps(given))
        for place, (name, given) in enumerate(say.calls)
    )
    words = len(say.text) + sum(len(call.arguments) for call in calls)
    finish = say.finish or ("tool_calls" if calls else "stop")
    return Answer(f"scripted-{ask.number}", say.text, calls, finish, size // 4 + 1, words // 4 + 1)

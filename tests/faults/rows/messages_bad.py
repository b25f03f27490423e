"""F19, F20, F21: bytes that are no message, messages with one thing wrong, handlers that nobody has."""

import base64
import copy
import json
from collections.abc import Iterator
from typing import Any

from contracts.messages import Message, SigningKeys, StepRef
from contracts.topology import MessageKind
from shared_state.broker.app import signing_keys
from shared_state.broker.frames import make_frame
from shared_state.broker.wire import pack
from shared_state.engine import new_id
from tests.faults.row import Row
from tests.faults.scene import Scene

QUEUES = ("plan", "execute", "review")
STRANGE: tuple[object, ...] = (None, "", "strange", -1, 10**30, 0.5, True, [], {}, ["x"], {"x": 1})
SPACE_SECONDS = 0.2


def send_bytes(scene: Scene) -> None:
    """Random bytes, cut and mutilated frames."""
    pieces = _Pieces(scene)
    while not scene.over():
        good = make_frame(pack(_message("execute"), pieces.keys, "faults"))
        place = scene.chance.randrange(len(good))
        pieces.send("execute", scene.chance.randbytes(scene.chance.randrange(1, 2000)))
        pieces.send("execute", b"{{{not json")
        pieces.send("execute", good[:place])
        pieces.send("execute", good[: place // 2] + b"\x00\xff" + good[place // 2 :])
        scene.pause(SPACE_SECONDS)
    pieces.judge("pieces that are no message")


def send_wrong_fields(scene: Scene) -> None:
    """Rightly signed messages in which one field is missing or strange, each as often as there are fields."""
    pieces = _Pieces(scene)
    made = list(_with_one_field_wrong(pieces.keys))
    scene.chance.shuffle(made)
    for raw in made:
        pieces.send("execute", raw)
        if scene.over():
            break
    pieces.judge("messages with one field wrong")


def send_unknown_handlers(scene: Scene) -> None:
    """Signed, but for a handler that nobody has; each names a step that must run all the same."""
    pieces = _Pieces(scene)
    while not scene.over():
        rows = scene.query("select id, epoch from steps where queue = 'execute' order by id desc limit 5")
        for row in rows:
            message = _message("execute", steps=[(row["id"], row["epoch"])])
            frame = json.loads(make_frame(pack(message, pieces.keys, "faults")))
            frame["headers"]["task"] = scene.chance.choice(["orchestrator.gone", "celery.chord", "x"])
            pieces.send("execute", json.dumps(frame).encode())
        scene.pause(SPACE_SECONDS)
    pieces.judge("messages for handlers nobody has", reason="message.handler")


class _Pieces:
    """Sends pieces, and counts the dead letters that come of them."""

    def __init__(self, scene: Scene) -> None:
        self.keys = signing_keys(scene.direct)
        self._scene = scene
        self._starts = scene.staff.starts
        self._sent = 0

    def send(self, queue: str, raw: bytes) -> None:
        with self._scene.servers.client() as client:
            client.lpush(queue, raw)
        self._sent += 1

    def judge(self, what: str, reason: str | None = None) -> None:
        scene = self._scene
        scene.injected(what, self._sent)
        sql = """select count(*) as n from dead_letters where step_id is null
            and (%(reason)s::text is null or reason = %(reason)s)"""
        try:
            scene.until(lambda: scene.query(sql, reason=reason)[0]["n"] >= self._sent, "all are dead letters", 30)
        except AssertionError:
            kept = scene.query(sql, reason=reason)[0]["n"]
            scene.problem(f"{kept} dead letters of {self._sent} {what}")
        reasons = scene.query("select reason, count(*) as n from dead_letters group by reason order by n desc")
        scene.facts["reasons"] = ", ".join(f"{row['n']} {row['reason']}" for row in reasons)
        scene.expect(scene.staff.starts == self._starts, "a process died of it")


def _message(queue: str, *, steps: list[tuple[Any, int]] | None = None) -> Message:
    refs = tuple(StepRef(id=each, epoch=epoch) for each, epoch in steps or [(new_id(), 0)])
    return Message(id=new_id(), kind=MessageKind.EXECUTE, queue=queue, steps=refs)


def _with_one_field_wrong(keys: SigningKeys) -> Iterator[bytes]:
    """Of the envelope, signed anew, of the headers and of the frame: every field, missing and strange."""
    packed = pack(_message("execute"), keys, "faults")
    frame = json.loads(make_frame(packed))
    (envelope,), keywords, options = json.loads(packed.body)
    body = {name: value for name, value in envelope.items() if name not in ("key", "signature")}
    for wrong in _wrong(body, set(body), {"traceparent": [None, "", "strange"]}):
        call = json.dumps([[keys.sign(wrong)], keywords, options]).encode()
        yield json.dumps({**frame, "body": base64.b64encode(call).decode()}).encode()
    for wrong in _wrong(
        frame["headers"], {"task", "id", "root_id", "lang", "retries", "eta", "expires", "origin"}, _SAME
    ):
        yield json.dumps({**frame, "headers": wrong}).encode()
    for wrong in _wrong(frame, {"body", "content-type", "content-encoding", "headers", "properties"}, {}):
        yield json.dumps(wrong).encode()


_SAME = {"origin": ["", "strange"], "eta": [None], "expires": [None]}
"""What is strange elsewhere and right here."""


def _wrong(good: dict[str, Any], names: set[str], right: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    for name in sorted(names & set(good)):
        for value in STRANGE:
            if value in right.get(name, []) or (value == good[name] and type(value) is type(good[name])):
                continue
            wrong = copy.deepcopy(good)
            wrong[name] = value
            yield wrong


ROWS = (
    Row(
        "F19",
        "random bytes and mutilated messages",
        "each is a dead letter; nobody dies",
        send_bytes,
        seconds=15,
        workers=2,
    ),
    Row(
        "F20",
        "signed messages with one field wrong, every field",
        "each is a dead letter with its reason; nobody dies",
        send_wrong_fields,
        seconds=15,
        workers=2,
    ),
    Row(
        "F21",
        "messages for handlers nobody has, naming the newest steps",
        "each is a dead letter; its steps run",
        send_unknown_handlers,
        seconds=15,
        workers=2,
    ),
)

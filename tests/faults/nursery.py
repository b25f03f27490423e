"""`python -m tests.faults.nursery [ABLATION | --bare]`: forks product processes, in a tenth of a start's usual time.

Killing a thousand workers needs a thousand starts, and most of a start is importing. So one process imports what they
all import, opens nothing, starts no thread, and forks: from there on it is the product's own `main`. Orders are JSON
lines on standard input, answers JSON lines on standard output; when its input ends, everything it started dies.
`--bare` leaves what is ours to be imported by each process for itself, in its own environment.
"""

import ctypes
import gc
import importlib
import json
import os
import random
import selectors
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

PRELOAD = (
    "workers.__main__",
    "orchestrator.cli",
    "orchestrator.loops.main",
    "celery.apps.worker",
    "celery.concurrency.thread",
    "celery.worker.autoscale",
    "shared_state.broker.consumer",
    "shared_state.broker.transport",
    "kombu.transport.redis",
    "sqlalchemy.dialects.postgresql.psycopg",
    "tests.faults.agents",
)
BARE = (
    "celery.apps.worker",
    "celery.concurrency.thread",
    "celery.worker.autoscale",
    "celery.worker.consumer.consumer",
    "celery.worker.control",
    "kombu.transport.redis",
    "sqlalchemy.dialects.postgresql.psycopg",
    "alembic.command",
    "cyclopts",
    "fastapi.responses",
    "httpx",
    "jsonschema_rs",
    "rich.console",
    "structlog",
    "uvicorn.lifespan.on",
    "uvicorn.protocols.http.auto",
)
_PR_SET_PDEATHSIG = 1


def main() -> None:
    bare = sys.argv[1:] == ["--bare"]
    for name in BARE if bare else PRELOAD:
        importlib.import_module(name)
    if sys.argv[1:] and not bare:
        # What is ours is imported only where it is meant to be.
        from tests.faults.ablations import ABLATIONS

        ABLATIONS[sys.argv[1]].install()
    gc.collect()
    gc.freeze()
    wake_reader, wake_writer = os.pipe()
    os.set_blocking(wake_reader, False)
    os.set_blocking(wake_writer, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.set_wakeup_fd(wake_writer)
    with selectors.EpollSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        selector.register(wake_reader, selectors.EVENT_READ)
        _say({"ready": True})
        _serve(selector, wake_reader, (wake_reader, wake_writer))


def _serve(selector: selectors.EpollSelector, wake_reader: int, ours: tuple[int, ...]) -> None:
    pending, children = b"", set[int]()
    while True:
        ready = {key.fd for key, _ in selector.select()}
        if wake_reader in ready:
            with suppress(BlockingIOError):
                os.read(wake_reader, 4096)
        _reap(children)
        if 0 in ready:
            data = os.read(0, 65536)
            if not data:
                break
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                order = json.loads(line)
                pid = os.fork()
                if pid == 0:
                    _become(order, (*ours, selector.fileno()))
                children.add(pid)
                _say({"name": order["name"], "pid": pid})
    for pid in children:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _reap(children: set[int]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        children.discard(pid)
        _say({"ended": pid, "code": os.waitstatus_to_exitcode(status)})


def _say(answer: dict[str, Any]) -> None:
    os.write(1, json.dumps(answer).encode() + b"\n")


def _become(order: dict[str, Any], ours: tuple[int, ...]) -> NoReturn:
    """In the child: a session, a log and an environment of its own, then the program. Never returns."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        for descriptor in (*ours, log, nothing):
            os.close(descriptor)
        if order.get("exec"):
            os.execve(sys.executable, [sys.executable, "-m", *order["program"]], order["environment"])
        os.environ.clear()
        os.environ.update(order["environment"])
        random.seed()
        code = _program(order["program"])()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stderr.flush()
        os._exit(code)


def _program(program: list[str]) -> Callable[[], int]:
    """`["workers", ROLE, ...]` or `["orchestrator", COMMAND, ...]`, as `python -m` would have it."""
    sys.argv = list(program)
    if program[0] == "workers":
        return importlib.import_module("workers.__main__").main
    return importlib.import_module("orchestrator.cli").main


if __name__ == "__main__":
    main()

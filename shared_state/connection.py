"""One transaction at a time over one connection, as one conversation: what is sent is gathered, goes out in one piece,
and is waited for only where a reply is read. BEGIN, locks and COMMIT are never waited for by themselves.

psycopg connects, adapts values and words errors; its own pipeline, though, writes to the socket and looks for replies
at every statement, which costs several times what the statements cost (docs/performance.md). This speaks libpq's
pipeline mode (https://www.postgresql.org/docs/current/libpq-pipeline-mode.html) through psycopg's wrapper of it.
"""

import json
import re
import select
from collections import deque
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import psycopg
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import InFailedSqlTransaction, error_from_result
from psycopg.pq import ConnStatus, ExecStatus, TransactionStatus
from psycopg.pq.abc import PGresult
from psycopg.types.json import set_json_loads
from pydantic_core import from_json

ANSWER_SECONDS = 45.0
"""Longer than the server lets a statement run: who has not answered by then will not."""
_PREPARED_LIMIT = 500
"""Statements prepared on one connection; there are about a hundred. What is beyond is parsed each time."""
_PARAMETER = re.compile(r"%\((\w+)\)s|%%")
_GOOD = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK)


class Reply:
    """What a statement will have answered."""

    __slots__ = ("connection", "result")

    def __init__(self, connection: "Connection") -> None:
        self.connection = connection
        self.result: PGresult | None = None

    def rows(self) -> list[dict[str, Any]]:
        """Its rows, by column; none where it returns none. Waits, unless the transaction is over."""
        return self.connection.rows(self)

    def count(self) -> int:
        """How many rows it read or wrote."""
        return self.connection.result(self).command_tuples or 0


class Connection:
    """Kept with its driver's connection, whose prepared statements it knows."""

    def __init__(self, driver: psycopg.Connection[Any]) -> None:
        self._driver = driver
        self._libpq = driver.pgconn
        set_json_loads(_read_json, driver)
        self._values = Transformer(driver)
        self._prepared: dict[str, bytes] = {}
        self._named = 0
        self._unsure: list[str] = []
        """Prepared in this transaction: if it fails nobody knows which of them."""
        self._awaited: deque[Reply] = deque()

    def begin(self) -> None:
        self._libpq.enter_pipeline_mode()
        self.send("begin", {})

    def send(self, sql: str, parameters: Mapping[str, Any]) -> Reply:
        """Add a statement with psycopg's named parameters (`%(ids)s`) to what goes out next.

        Parameters travel as text and their types are inferred by the server, so the SQL has to say them.
        An error in it is raised by whatever is read next, at the latest by `commit`.
        """
        text, names = _translate(sql)
        values = self._values.dump_sequence([parameters[name] for name in names], [PyFormat.TEXT] * len(names))
        name = self._prepared.get(sql)
        if name is None and len(self._prepared) < _PREPARED_LIMIT:
            name = self._prepare(sql, text)
        if name is None:
            self._libpq.send_query_params(text, values)
        else:
            self._libpq.send_query_prepared(name, values)
        return self._await()

    def rows(self, reply: Reply) -> list[dict[str, Any]]:
        result = self.result(reply)
        if result.status != ExecStatus.TUPLES_OK:
            return []
        names = [(result.fname(column) or b"").decode() for column in range(result.nfields)]
        self._values.set_pgresult(result)
        return self._values.load_rows(0, result.ntuples, lambda row: dict(zip(names, row, strict=True)))

    def result(self, reply: Reply) -> PGresult:
        if reply.result is None:
            self._libpq.send_flush_request()
            while reply.result is None:
                self._read()
        return reply.result

    def commit(self) -> None:
        """Raises what any statement of the transaction had to complain about; then nothing of it happened."""
        reply = self.send("commit", {})
        self._synchronise()
        if reply.result is None or reply.result.command_status != b"COMMIT":
            raise psycopg.OperationalError("the transaction was not committed")
        self._unsure.clear()
        self._libpq.exit_pipeline_mode()

    def roll_back(self) -> None:
        """Whatever state it is in. Raises `psycopg.Error` when the connection is of no use any more."""
        for sql in self._unsure:
            self._prepared.pop(sql, None)
        self._unsure.clear()
        self._synchronise(quietly=True)
        if self._libpq.transaction_status != TransactionStatus.IDLE:
            self._libpq.send_query_params(b"rollback", [])
            self._await()
            self._synchronise(quietly=True)
        self._libpq.exit_pipeline_mode()

    def _prepare(self, sql: str, text: bytes) -> bytes:
        self._named += 1
        name = self._prepared[sql] = b"s%d" % self._named
        self._unsure.append(sql)
        self._libpq.send_prepare(name, text)
        self._await()
        return name

    def _await(self) -> Reply:
        reply = Reply(self)
        self._awaited.append(reply)
        return reply

    def _synchronise(self, *, quietly: bool = False) -> None:
        """End the piece and read what is left of its replies. The first error is raised when all have been read."""
        self._libpq.pipeline_sync()
        first: psycopg.Error | None = None
        while True:
            try:
                if self._read():
                    break
            except psycopg.Error as error:
                if self._libpq.status != ConnStatus.OK:
                    raise
                first = first or error
        if first is not None and not quietly:
            raise first

    def _read(self) -> bool:
        """The next reply, or the end of the piece: then True."""
        result = self._next_result()
        while result is None:  # stands between the replies of two statements
            if self._libpq.status != ConnStatus.OK:
                raise psycopg.OperationalError("the connection is lost")
            result = self._next_result()
        if result.status == ExecStatus.PIPELINE_SYNC:
            return True
        if not self._awaited:  # nobody asked for it: the server says good-bye, be it after the commit
            raise error_from_result(result, encoding="utf-8")
        self._awaited.popleft().result = result
        if result.status == ExecStatus.PIPELINE_ABORTED:
            raise InFailedSqlTransaction("an earlier statement of the transaction has failed")
        if result.status not in _GOOD:
            raise error_from_result(result, encoding="utf-8")
        return False

    def _next_result(self) -> PGresult | None:
        while (unsent := self._libpq.flush()) or self._libpq.is_busy():
            poll = select.poll()
            poll.register(self._libpq.socket, select.POLLIN | (select.POLLOUT if unsent else 0))
            if not poll.poll(ANSWER_SECONDS * 1000):
                self._driver.close()
                raise psycopg.OperationalError("the server does not answer")
            self._libpq.consume_input()
        return self._libpq.get_result()


def _read_json(text: str | bytes) -> Any:
    """As Python's own reader does, in a tenth of its time. Pydantic's refuses what is nested deeper than 200."""
    try:
        return from_json(text)
    except ValueError:
        return json.loads(text)


@lru_cache(maxsize=1000)
def _translate(sql: str) -> tuple[bytes, tuple[str, ...]]:
    """To libpq's numbered parameters; their names in order."""
    names = tuple(dict.fromkeys(found[1] for found in _PARAMETER.finditer(sql) if found[1]))
    text = _PARAMETER.sub(lambda found: f"${names.index(found[1]) + 1}" if found[1] else "%", sql)
    return text.encode(), names

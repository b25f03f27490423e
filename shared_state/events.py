"""Events: the append-only history, read so that no reader ever misses one.

Rows are written by transactions that commit in any order. A reader orders by (transaction id, row id) and stops below
the oldest transaction still in progress: whatever commits later has a larger transaction id than anything read.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from contracts.errors import InvalidInput
from shared_state.connection import Connection
from shared_state.statements import query

_COLUMNS = (
    """e.xid::text as xid, e.id, e.task_id, e.step_id, e.data ->> 'step' as step_key, e.epoch, e.type, e.data, e.at"""
)
_FINAL = "e.xid < pg_snapshot_xmin(pg_current_snapshot())"


@dataclass(frozen=True)
class Event:
    """`cursor` ("xid-id") names the place after this event; give it back as `after` to go on."""

    cursor: str
    task_id: UUID
    type: str
    step_id: UUID | None
    step_key: str | None
    epoch: int | None
    data: dict[str, Any]
    at: datetime


def read(connection: Connection, tenant: str, task_id: UUID, after: str | None, limit: int) -> list[Event]:
    """The next events of one task, oldest first."""
    xid, row = parse_cursor(after)
    rows = query(
        connection,
        f"""select {_COLUMNS} from events e
        where e.tenant_id = %(tenant)s and e.task_id = %(task_id)s and {_FINAL}
            and (e.xid, e.id) > (%(xid)s::text::xid8, %(row)s)
        order by e.xid, e.id limit %(limit)s""",
        tenant=tenant, task_id=task_id, xid=xid, row=row, limit=limit,
    )  # fmt: skip
    return [_event(each) for each in rows]


def tail(connection: Connection, after: str, limit: int) -> list[Event]:
    """The next events of all tasks of all tenants, oldest first: for one poller that serves many watchers."""
    xid, row = parse_cursor(after)
    rows = query(
        connection,
        f"""select {_COLUMNS} from events e
        where {_FINAL} and (e.xid, e.id) > (%(xid)s::text::xid8, %(row)s)
        order by e.xid, e.id limit %(limit)s""",
        xid=xid, row=row, limit=limit,
    )  # fmt: skip
    return [_event(each) for each in rows]


def now_cursor(connection: Connection) -> str:
    """A place before every event that is not final yet: where a tail starts."""
    rows = query(connection, "select pg_snapshot_xmin(pg_current_snapshot())::text as xid")
    return f"{rows[0]['xid']}-0"


def parse_cursor(cursor: str | None) -> tuple[str, int]:
    """(transaction id, row id). Raises `InvalidInput` on anything we did not give out."""
    if cursor is None:
        return "0", 0
    xid, dash, row = cursor.partition("-")
    digits = xid.isascii() and xid.isdigit() and row.isascii() and row.isdigit()
    if not dash or not digits or int(xid) >= 2**63 or int(row) >= 2**63:
        raise InvalidInput("the cursor is not one that this service gave out", field="cursor")
    return xid, int(row)


def _event(row: Any) -> Event:
    return Event(
        cursor=f"{row['xid']}-{row['id']}",
        task_id=row["task_id"],
        type=row["type"],
        step_id=row["step_id"],
        step_key=row["step_key"],
        epoch=row["epoch"],
        data=row["data"] or {},
        at=row["at"],
    )

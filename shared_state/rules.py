"""Rules: pauses and limits, and the queue entries they hold back.

Whoever is about to send for entries, or to claim them, has them judged first; what may not begin is parked, and the
relay releases it once the rule is gone, or admits it when its limited agent has a place.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from shared_state.connection import Connection
from shared_state.statements import run


@dataclass(frozen=True)
class Judged:
    """`free` may begin; `held` may not, by which rule. What has no entry in the outbox is neither."""

    free: Collection[UUID]
    held: Mapping[UUID, UUID]


def judge(connection: Connection, ids: Sequence[UUID]) -> Judged:
    rows = run(connection, "judge", ids=list(ids))
    return Judged(
        free=frozenset(row["step_id"] for row in rows if row["rule_id"] is None),
        held={row["step_id"]: row["rule_id"] for row in rows if row["rule_id"] is not None},
    )


def park(connection: Connection, held: Mapping[UUID, UUID]) -> frozenset[UUID]:
    """Those of the steps whose entries were not at that moment somebody else's. Steps are locked before entries."""
    if not held:
        return frozenset()
    rows = run(connection, "park", ids=list(held), rules=list(held.values()))
    return frozenset(row["step_id"] for row in rows)

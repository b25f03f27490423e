"""What a step may read of its task beyond its own input: the task's input, and the accepted outputs it stands on."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Engine

from contracts.errors import NotFound
from shared_state.engine import transaction
from shared_state.statements import query, run


@dataclass(frozen=True)
class Accepted:
    """One accepted output: whose it is, how long as JSON, and the objects in it that look like artifact references."""

    key: str
    agent: str
    size_bytes: int
    artifacts: tuple[Any, ...]


class Lineage:
    """The task's input, and the accepted outputs of the steps that one step needs, directly or through others.

    Read when asked for; the same at every attempt, since a step begins when all of them are accepted and an accepted
    output never changes. (An optional step that was given up may be redriven later: then there is one more.)
    """

    def __init__(self, engine: Engine, tenant: str, step_id: UUID) -> None:
        self._engine = engine
        self._tenant = tenant
        self._step_id = step_id

    def task_input(self) -> Any:
        """Null where the task is not this tenant's."""
        with transaction(self._engine) as connection:
            rows = query(
                connection,
                """select t.input from steps s join tasks t on t.id = s.task_id
                where s.id = %(id)s and s.tenant_id = %(tenant)s""",
                id=self._step_id,
                tenant=self._tenant,
            )
        return rows[0]["input"] if rows else None

    def outputs(self) -> list[Accepted]:
        """Without their bodies; parents before children."""
        with transaction(self._engine) as connection:
            rows = run(connection, "view_lineage", id=self._step_id, tenant=self._tenant)
        return [Accepted(row["key"], row["agent"], row["size_bytes"], tuple(row["artifacts"])) for row in rows]

    def body(self, key: str) -> Any:
        """The accepted output of one step of the same task. Raises `NotFound`; asks nothing about who needs whom."""
        with transaction(self._engine) as connection:
            rows = query(
                connection,
                """select o.body from steps own
                join steps s on s.task_id = own.task_id and s.key = %(key)s
                join outputs o on o.step_id = s.id
                where own.id = %(id)s and own.tenant_id = %(tenant)s""",
                id=self._step_id,
                tenant=self._tenant,
                key=key,
            )
        if not rows:
            raise NotFound(f"step {key!r} has no accepted output")
        return rows[0]["body"]

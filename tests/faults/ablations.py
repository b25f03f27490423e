"""Guards taken away, in the processes of one row only: the row must then fail, otherwise it proves nothing.

Nothing in the product knows of this. The nursery calls `install` before it forks the first product process; SQL is
changed where the product loads it, as `tests.mutation` does.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.mutation.guards import without

FENCED = ("accept", "propose", "return", "bury", "heartbeat")


@dataclass(frozen=True)
class Ablation:
    text: str
    install: Callable[[], None]


def _fence() -> None:
    """Every settlement and every heartbeat of an attempt loses the comparison with the step's epoch."""
    _change_statements({name: lambda sql: without(sql, "epoch") for name in FENCED})


def _outbox() -> None:
    """Messages leave before their transaction commits, and nobody looks for those that got lost."""
    from shared_state import outbox
    from workers import batcher

    publishers: list[Callable[[list[outbox.Wakeup]], None]] = []
    begin, settle = batcher.Batcher.__init__, vars(batcher)["begin_settle"]

    def begin_without(self: Any, *given: Any, publish: Any, **more: Any) -> None:
        publishers.append(publish)
        begin(self, *given, publish=lambda _wakeups: None, **more)

    def settle_and_publish(*given: Any, **more: Any) -> Any:
        writing = settle(*given, **more)
        publishers[-1](writing.expected)
        return writing

    vars(outbox)["relay"] = lambda *_, **__: outbox.RelayPass(acted=True)
    batcher.Batcher.__init__ = begin_without
    vars(batcher)["begin_settle"] = settle_and_publish


def _sweeper() -> None:
    from shared_state import sweep

    vars(sweep)["sweep"] = lambda *_, **__: (0, [])


def _claim() -> None:
    """The named step is taken, whatever its state and epoch. That the record could not hold two attempts of one epoch
    would stop it all the same: so that goes too."""
    begun = "    from claimed\n), told as ("
    again = (
        "    from claimed\n    on conflict (step_id, epoch) do update\n"
        "        set state = 'running', finished_at = null, worker = excluded.worker\n), told as ("
    )
    taken = "    set state = case s.state when 'ready' then 'running' else 'reviewing' end,\n"
    anyhow = "    set state = case s.state when 'reviewing' then 'reviewing' else 'running' end, finished_at = null,\n"

    def unconditional(sql: str) -> str:
        for old, new in ((begun, again), (taken, anyhow)):
            if sql.count(old) != 1:
                raise ValueError(f"claim.sql has {sql.count(old)} times, not once: {old!r}")
            sql = sql.replace(old, new)
        return without(without(sql, "epoch"), "claimable")

    _change_statements({"claim": unconditional})


def _change_statements(changes: Mapping[str, Callable[[str], str]]) -> None:
    from shared_state import statements

    load = statements.load
    changed = {name: change(load(name)) for name, change in changes.items()}
    vars(statements)["load"] = lambda name: changed.get(name) or load(name)


ABLATIONS: Mapping[str, Ablation] = {
    "fence": Ablation("the epoch in settlements and heartbeats", _fence),
    "outbox": Ablation("the outbox: published before the commit, and only once", _outbox),
    "sweeper": Ablation("the sweeper", _sweeper),
    "claim": Ablation("the conditions of the claim", _claim),
}

"""Triggers for test databases: a state change that `contracts.states` does not list fails its transaction."""

from collections.abc import Mapping
from enum import StrEnum

import psycopg

from contracts.states import ATTEMPT_MOVES, STEP_MOVES, TASK_MOVES


def install(database_url: str) -> None:
    """Add the triggers to a migrated database; clones of it have them too."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        for table, moves in (("tasks", TASK_MOVES), ("steps", STEP_MOVES), ("attempts", ATTEMPT_MOVES)):
            connection.execute(trigger(table, moves))


def trigger(table: str, moves: Mapping[StrEnum, frozenset[StrEnum]]) -> str:
    legal = ", ".join(f"'{before}>{after}'" for before, afters in moves.items() for after in sorted(afters))
    return f"""
        create function legal_{table}() returns trigger language plpgsql as $$
        begin
            if old.state <> new.state and not (old.state || '>' || new.state = any (array[{legal}])) then
                raise exception 'illegal move of {table}: % -> %', old.state, new.state;
            end if;
            return new;
        end $$;
        create trigger legal_moves before update of state on {table} for each row execute function legal_{table}();
    """

"""Retention: what is old enough goes. Nothing unfinished and no open dead letter is ever touched.

Dead letters of steps go with their task, which is kept until the last of them is old enough: the story stays whole.
"""

from sqlalchemy import Engine

from shared_state.crash_points import crash_point
from shared_state.engine import transaction

_STATEMENTS = {
    "tasks": """delete from tasks where id in (select t.id from tasks t
        where t.finished_at < clock_timestamp() - make_interval(secs => %(days)s * 86400.0)
            and not exists (select 1 from dead_letters l where l.task_id = t.id and (l.closed_at is null
                or l.closed_at >= clock_timestamp() - make_interval(secs => %(dead_letter_days)s * 86400.0)))
        order by t.finished_at limit %(limit)s)""",
    "idempotency_keys": """delete from idempotency_keys
        where created_at < clock_timestamp() - make_interval(secs => greatest(%(days)s, 7) * 86400.0)
            and exists (select 1 from tasks t where t.id = task_id and t.finished_at is not null)""",
    "dead_letters": """delete from dead_letters where step_id is null and state <> 'open'
        and closed_at < clock_timestamp() - make_interval(secs => %(dead_letter_days)s * 86400.0)""",
    # What has ended needs no resuming; who paused what is kept as long as a task.
    "rules": """with over as (
            update rules r set ended_at = clock_timestamp(), ended_by = 'the end of its task'
            from tasks t where t.id = r.task_id and r.ended_at is null and t.finished_at is not null)
        delete from rules where ended_at < clock_timestamp() - make_interval(secs => %(days)s * 86400.0)""",
    "workers": "delete from workers where state = 'gone' and seen_at < clock_timestamp() - interval '1 day'",
}


def prune(
    engine: Engine, *, retention_days: float, dead_letter_retention_days: float = 0, limit: int = 500
) -> dict[str, int]:
    """Delete finished tasks (with all that is theirs), closed raw dead letters and gone workers. Counts by table.

    Closed dead letters are kept for the longer of the two times.
    """
    dead_letter_days = max(retention_days, dead_letter_retention_days)
    counts: dict[str, int] = {}
    for table, sql in _STATEMENTS.items():
        with transaction(engine) as connection:
            parameters = {"days": retention_days, "dead_letter_days": dead_letter_days, "limit": limit}
            counts[table] = connection.send(sql, parameters).count()
        crash_point("C40", when=counts[table])
    return counts

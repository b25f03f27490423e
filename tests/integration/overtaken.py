"""An open transaction that others have to wait for: two who are at the same step, in an order the test chooses."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from shared_state.connection import Connection
from shared_state.engine import transaction
from tests.integration.driver import Driver


class Overtaken:
    """Somebody's open transaction: others can be made to wait for it."""

    def __init__(self, driver: Driver, connection: Connection, pool: ThreadPoolExecutor) -> None:
        self.driver = driver
        self.connection = connection
        self._pool = pool

    def __call__(self, work: Callable[[], Any]) -> Future[Any]:
        """Start `work` in a thread; returns when it waits for a lock, or has ended without."""
        future = self._pool.submit(work)
        deadline = time.monotonic() + 10
        waiting = """select count(*) as n from pg_stat_activity
            where wait_event_type = 'Lock' and datname = current_database()"""
        while not future.done() and self.driver.query(waiting)[0]["n"] == 0:
            assert time.monotonic() < deadline, "it neither waits nor ends"
        return future


@contextmanager
def overtaken(driver: Driver, first: Callable[[Connection], Any]) -> Iterator[Overtaken]:
    """`first` has written and not yet committed; what the yielded is given waits for it; then it commits."""
    with ThreadPoolExecutor(1) as pool, transaction(driver.engine) as connection:
        first(connection)
        yield Overtaken(driver, connection, pool)

"""LISTEN for rows that wait for the relay. Polling is the net: losing a notification only costs a little time."""

import threading
from urllib.parse import urlsplit

import psycopg
import structlog

from shared_state.outbox import CHANNEL

log = structlog.get_logger("loops")


def listen(database_url: str, wake: threading.Event, stop: threading.Event) -> None:
    """Set `wake` on every notification until `stop` is set; reconnects by itself."""
    url = urlsplit(database_url)._replace(scheme="postgresql").geturl()
    while not stop.is_set():
        try:
            with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
                connection.execute(f"listen {CHANNEL}")
                wake.set()
                while not stop.is_set():
                    for _ in connection.notifies(timeout=1.0, stop_after=1):
                        wake.set()
        except psycopg.Error as error:
            log.warning("listener.unavailable", error=type(error).__name__)
            stop.wait(1.0)

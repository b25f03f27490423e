"""A server that ends a connection right after the commit, before the end of the piece: away, and not a defect."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit, urlunsplit

import pytest
from sqlalchemy import Engine

from contracts.errors import Unavailable
from shared_state.engine import make_engine, transaction
from shared_state.statements import query

_FIELDS = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
FAREWELL = b"E" + struct.pack("!i", len(_FIELDS) + 4) + _FIELDS
COMMITTED = b"C" + struct.pack("!i", 11) + b"COMMIT\0"


@pytest.fixture
def leaving(database_url: str, engine: Engine) -> Iterator[Engine]:
    """Its server commits, and then ends the connection as an administrator does."""
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_serve, args=(listener, database_url), daemon=True).start()
    parts = urlsplit(database_url)
    netloc = f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{listener.getsockname()[1]}"
    made = make_engine(urlunsplit(parts._replace(netloc=netloc)), pool_size=1)
    yield made
    made.dispose()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def test_a_farewell_after_the_commit_is_unavailable(leaving: Engine, engine: Engine) -> None:
    with pytest.raises(Unavailable), transaction(leaving) as connection:
        query(connection, "insert into tenants (id) values ('committed')")
    with transaction(engine) as connection:
        rows = query(connection, "select id from tenants where id = 'committed'")
    assert rows, "it was committed all the same, and whoever asks again finds it"


def _serve(listener: socket.socket, url: str) -> None:
    parts = urlsplit(url)
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            server = socket.create_connection((parts.hostname or "", parts.port or 0))
            threading.Thread(target=_pass, args=(client, server), daemon=True).start()
            threading.Thread(target=_pass_until_committed, args=(server, client), daemon=True).start()


def _pass(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)


def _pass_until_committed(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            before, found, _ = data.partition(COMMITTED)
            target.sendall(before + found)
            if found:
                target.sendall(FAREWELL)
                break
        for each in (target, source):
            each.shutdown(socket.SHUT_RDWR)
            each.close()

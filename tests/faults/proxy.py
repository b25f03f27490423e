"""A TCP proxy on loopback that misbehaves on demand: slow, cut, half-open, deaf, forgetful about replies to COMMIT."""

import random
import socket
import threading
import time
from contextlib import suppress
from urllib.parse import urlsplit, urlunsplit

CHUNK = 65_536
_COMMITTED = b"COMMIT\x00"
"""In what the server says: a transaction was committed."""


class Proxy:
    """Listens at `port` from the start. `target` is asked for at each connection: servers come back elsewhere."""

    def __init__(self, host: str, port: int, chance: random.Random) -> None:
        self._target = (host, port)
        self._chance = chance
        self.delay_seconds = 0.0
        """Each way, for every piece."""
        self.jitter_seconds = 0.0
        self.lose_share = 0.0
        """How many of the replies to COMMIT are lost, and their connections with them."""
        self.lost_replies = 0
        self._passing = threading.Event()
        self._passing.set()
        self._closed = False
        self._lock = threading.Lock()
        self._pairs: set[_Pair] = set()
        self._listener: socket.socket | None = None
        self.port = 0
        self.listen()

    def url(self, url: str) -> str:
        """The same server, through here."""
        parts = urlsplit(url)
        user = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{self.port}"))

    def listen(self) -> None:
        """Take connections (again)."""
        if self._listener is None:
            listener = socket.create_server(("127.0.0.1", self.port), backlog=256)
            self.port = listener.getsockname()[1]
            self._listener = listener
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def refuse(self) -> int:
        """Stop listening, and cut what is open; how many were."""
        listener, self._listener = self._listener, None
        if listener is not None:
            # Closing alone does not wake the thread that waits in accept.
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        return self.cut()

    def cut(self) -> int:
        """End every connection; how many there were."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            pair.end()
        return len(pairs)

    def hold(self) -> None:
        """Half-open: connections stay, new ones are taken, and nothing passes in either direction."""
        self._passing.clear()

    def release(self) -> None:
        """What was held passes now, late, as after a healed partition."""
        self._passing.set()

    def heal(self) -> None:
        """As new."""
        self.delay_seconds = self.jitter_seconds = self.lose_share = 0.0
        self.release()
        self.listen()

    def close(self) -> None:
        self._closed = True
        self._passing.set()
        self.refuse()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target, timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            for each in (client, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = _Pair(client, server)
            with self._lock:
                self._pairs.add(pair)
            threading.Thread(target=self._pump, args=(pair, client, server, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(pair, server, client, False), daemon=True).start()

    def _pump(self, pair: "_Pair", source: socket.socket, target: socket.socket, asks: bool) -> None:
        try:
            while data := source.recv(CHUNK):
                if self.delay_seconds or self.jitter_seconds:
                    time.sleep(self.delay_seconds + self._chance.uniform(0, self.jitter_seconds))
                self._passing.wait()
                if not asks and _COMMITTED in data and self._chance.random() < self.lose_share:
                    self.lost_replies += 1  # the server has committed; the client is never told
                    break
                target.sendall(data)
        except OSError:
            pass
        finally:
            pair.end()
            with self._lock:
                self._pairs.discard(pair)


class _Pair:
    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self._sockets = (client, server)

    def end(self) -> None:
        for each in self._sockets:
            # Shut down first: a close alone leaves the other thread waiting in recv.
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

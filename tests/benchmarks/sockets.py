"""What crossed a server's sockets, as the kernel counts it: nothing of the measured path is slowed by counting."""

import socket
import struct
from collections.abc import Mapping, Set
from dataclasses import dataclass

_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBxI48x")
_PORTS = struct.Struct("!4xHH")
_ATTRIBUTE = struct.Struct("=HH")
_BYTES = struct.Struct("=120xQQ")
_SEGMENTS = struct.Struct("=152xII")
_MESSAGE_BYTES = 72
_BY_FAMILY, _DUMP, _DONE, _ERROR = 20, 0x301, 3, 2
_ESTABLISHED = 1 << 1
_TCP_INFO = 2
"""linux/netlink.h, inet_diag.h and tcp.h; `ss -ti` shows the same numbers."""


@dataclass(frozen=True)
class Traffic:
    """Of one or many connections, as seen by the server."""

    bytes_received: int = 0
    bytes_sent: int = 0
    round_trips: int = 0

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(
            self.bytes_received + other.bytes_received,
            self.bytes_sent + other.bytes_sent,
            self.round_trips + other.round_trips,
        )


@dataclass(frozen=True)
class Counters:
    """Of one connection since it was made. A segment with data is one flush of a buffer, unless it is large."""

    bytes_received: int
    bytes_sent: int
    segments_received: int
    segments_sent: int


Connections = Mapping[int, Counters]
"""By the client's port."""


def read_connections(server_port: int) -> dict[int, Counters]:
    """The open IPv4 connections of a server on this machine. Raises `OSError` where the kernel does not tell."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as kernel:
        request = _REQUEST.pack(socket.AF_INET, socket.IPPROTO_TCP, 1 << (_TCP_INFO - 1), _ESTABLISHED)
        kernel.send(_HEADER.pack(_HEADER.size + len(request), _BY_FAMILY, _DUMP, 1, 0) + request)
        found: dict[int, Counters] = {}
        while True:
            answer = kernel.recv(1 << 20)
            offset = 0
            while offset < len(answer):
                length, kind, *_ = _HEADER.unpack_from(answer, offset)
                if kind == _DONE:
                    return found
                if kind == _ERROR:
                    raise OSError("the kernel does not list its sockets to this process")
                body = answer[offset + _HEADER.size : offset + length]
                port, client_port = _PORTS.unpack_from(body)
                if port == server_port:
                    found[client_port] = _counters(body)
                offset += length + 3 & ~3


def traffic_between(first: Connections, last: Connections, without: Set[int]) -> Traffic:
    """What the connections open at the end carried meanwhile; those of the client ports `without` do not count.

    A round trip is a request and its answer. Per connection it is the lesser of the data segments received and sent:
    a long request or a long answer takes several, so this is an upper bound, near where messages are short.
    """
    none = Counters(0, 0, 0, 0)
    total = Traffic()
    for port, now in last.items():
        if port in without:
            continue
        before = first.get(port, none)
        total += Traffic(
            now.bytes_received - before.bytes_received,
            now.bytes_sent - before.bytes_sent,
            min(now.segments_received - before.segments_received, now.segments_sent - before.segments_sent),
        )
    return total


def _counters(body: bytes) -> Counters:
    offset = _MESSAGE_BYTES
    while offset + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if kind == _TCP_INFO:
            info = body[offset + _ATTRIBUTE.size : offset + length]
            sent, received = _BYTES.unpack_from(info)
            segments_in, segments_out = _SEGMENTS.unpack_from(info)
            return Counters(received, sent, segments_in, segments_out)
        offset += length + 3 & ~3
    raise OSError("the kernel tells nothing of its sockets")

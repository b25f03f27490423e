"""Many people watching one task by server-sent events: what each event costs the API, and how late it arrives."""

import asyncio
import json
import math
import time
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import urlsplit

OPEN_SECONDS = 30.0
READ_SECONDS = 120.0


@dataclass
class Watched:
    """`lateness` has one number per event and watcher: seconds from when the database dated it to its arrival.

    Events from before all were connected are read from the log and do not count.
    """

    connected: int = 0
    all_connected_at: float = math.inf
    lateness: list[float] = field(default_factory=list)


async def watch(url: str, key: str, task_id: str, count: int, connected: asyncio.Event) -> Watched:
    """Open `count` streams, set `connected` when all are answered, read them to the task's end."""
    seen = Watched()
    streams = [asyncio.create_task(_follow(url, key, task_id, seen)) for _ in range(count)]
    deadline = time.monotonic() + OPEN_SECONDS
    while seen.connected < count and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    seen.all_connected_at = time.time()
    connected.set()
    await asyncio.wait_for(asyncio.gather(*streams), READ_SECONDS)
    return seen


async def _follow(url: str, key: str, task_id: str, seen: Watched) -> None:
    """A bare HTTP client: what it costs is not the API's. An event's data is one line, whole within a chunk."""
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    request = (
        f"GET /v1/tasks/{task_id}/events HTTP/1.1\r\nHost: {where.netloc}\r\nAuthorization: Bearer {key}\r\n"
        "Accept: text/event-stream\r\nConnection: close\r\n\r\n"
    )
    writer.write(request.encode())
    try:
        status = await reader.readline()
        if b" 200 " not in status:
            raise RuntimeError(f"watching a task was answered {status.decode().strip()}")
        seen.connected += 1
        while line := await reader.readline():
            if line.startswith(b"data: "):
                event = json.loads(line.removeprefix(b"data: "))
                at = datetime.fromisoformat(event["at"]).timestamp()
                if at > seen.all_connected_at:
                    seen.lateness.append(time.time() - at)
    finally:
        writer.close()

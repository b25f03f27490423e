"""The webhook: tells one address of every new dead letter, signed, at least once, without ever blocking other loops.

The address is the operator's, so it may be a private one; but never the link-local one where clouds hand out
credentials, and redirects are not followed. The name is resolved once for each connection, checked, and connected to
as it was checked. Ids, reason and text are told; inputs and outputs are not.
"""

import asyncio
import hashlib
import hmac
import ipaddress
import json
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from urllib.parse import urlsplit, urlunsplit

import httpx
import structlog
from sqlalchemy import Engine

from contracts.errors import Unavailable
from shared_state import webhooks
from shared_state.crash_points import crash_point
from shared_state.webhooks import Arrival

log = structlog.get_logger("loops")

PASS_SECONDS = 10.0
TOTAL_SECONDS = 10.0
"""For one delivery from resolving the name to the status line, however slowly the receiver drips."""
SIGNATURE_HEADER = "Orchestrator-Signature"
_GIVE_BACK = frozenset({408, 425, 429})


class _NotTold(Exception):
    """Why a delivery failed. `others_too`: the receiver is not well, so trying the next one makes no sense."""

    def __init__(self, reason: str, *, others_too: bool) -> None:
        super().__init__(reason)
        self.others_too = others_too


@dataclass(frozen=True)
class Webhook:
    """`url` and `secret` are secrets: neither is ever logged. Without a `secret` deliveries are not signed."""

    url: str = field(repr=False)
    secret: str | None = field(repr=False)
    total_seconds: float = TOTAL_SECONDS


def tell(engine: Engine, webhook: Webhook, clock: Callable[[], float] = time.monotonic) -> bool:
    """One pass, of some `PASS_SECONDS` at most: tell what is due. Whether anything was told."""
    waiting = webhooks.take(engine)
    crash_point("C21", when=waiting)
    until = clock() + PASS_SECONDS
    told = 0
    while waiting and clock() < until:
        arrival, *waiting = waiting
        try:
            asyncio.run(_deliver(webhook, arrival))
        except _NotTold as error:
            log.warning("webhook.failed", error=str(error), tries=arrival.count)
            if error.others_too:
                webhooks.postpone(engine, [arrival, *waiting], str(error))
                return told > 0
            webhooks.postpone(engine, [arrival], str(error))
        else:
            crash_point("C39")
            webhooks.mark_told(engine, arrival)
            told += 1
    webhooks.give_back(engine, waiting)
    return told > 0


def payload(arrival: Arrival) -> dict[str, object]:
    return {
        "type": "dead_letter.created",
        "dead_letter": {
            "id": str(arrival.id),
            "tenant": arrival.tenant,
            "reason": arrival.reason,
            "text": arrival.text,
            "task_id": None if arrival.task_id is None else str(arrival.task_id),
            "step_id": None if arrival.step_id is None else str(arrival.step_id),
            "step_key": arrival.step_key,
            "agent": arrival.agent,
            "team": arrival.team,
            "queue": arrival.queue,
            "created_at": arrival.created_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        },
    }


def sign(secret: str, moment: int, body: bytes) -> str:
    """`t=SECONDS,v1=HEX`: HMAC-SHA256 of `SECONDS.body`, so that a receiver can refuse what is old."""
    digest = hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={moment},v1={digest}"


def checked_addresses(host: str, port: int) -> list[str]:
    """Where to connect to, in order. Raises `Unavailable` for a name without address, or with one that is refused."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise Unavailable("the webhook's host does not resolve") from None
    addresses = [str(place[0]) for *_, place in found]
    for text in addresses:
        address = ipaddress.ip_address(text.partition("%")[0])
        plain = getattr(address, "ipv4_mapped", None) or address
        if plain.is_link_local or plain.is_multicast or plain.is_unspecified:
            raise Unavailable("the webhook's host has an address that is not allowed (link-local, multicast or none)")
    return addresses


async def _deliver(webhook: Webhook, arrival: Arrival) -> None:
    """Raises `_NotTold` unless the receiver answered with success."""
    body = json.dumps(payload(arrival)).encode()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "agent-orchestrator",
        "Orchestrator-Delivery": str(arrival.id),
        "Orchestrator-Attempt": str(arrival.count),
    }
    if webhook.secret is not None:
        headers[SIGNATURE_HEADER] = sign(webhook.secret, int(time.time()), body)
    try:
        async with asyncio.timeout(webhook.total_seconds):
            status = await _post(webhook.url, headers, body)
    except TimeoutError:
        raise _NotTold(f"no answer within {webhook.total_seconds:g} seconds", others_too=True) from None
    except Unavailable as error:
        raise _NotTold(error.text, others_too=True) from None
    except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError) as error:
        # Its text may hold the address, which is a secret.
        raise _NotTold(f"the connection failed ({type(error).__name__})", others_too=True) from None
    if not 200 <= status < 300:
        moved = "; redirects are not followed" if 300 <= status < 400 else ""
        raise _NotTold(f"it answered {status}{moved}", others_too=status >= 500 or status in _GIVE_BACK)


async def _post(url: str, headers: Mapping[str, str], body: bytes) -> int:
    """The status; the body of the answer is never read."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    refused: httpx.ConnectError | None = None
    sent = {**headers, "Host": parts.netloc}
    async with httpx.AsyncClient(verify=ssl.create_default_context(), trust_env=False, timeout=TOTAL_SECONDS) as client:
        for address in await asyncio.to_thread(checked_addresses, host, port):
            literal = f"[{address}]" if ":" in address else address
            target = urlunsplit(parts._replace(netloc=f"{literal}:{port}"))
            extensions = {"sni_hostname": host}
            try:
                async with client.stream("POST", target, headers=sent, content=body, extensions=extensions) as answer:
                    return answer.status_code
            except httpx.ConnectError as error:
                refused = error
    raise refused or Unavailable("the webhook's host has no address")

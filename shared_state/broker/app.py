"""The one place that builds a Celery application. Everybody passes it on; nobody asks for the current one.

Celery moves messages here and does nothing else: no canvas, no `eta`, no retries, no result backend. Redis and
RabbitMQ differ by URL. A worker passes `quarantine` and `keys`: they make consuming safe (see `consumer.py`), and they
travel as constructor arguments - a `partial` for Celery's consumer, a transport option for kombu's channel - because
both are built by class, deep inside the libraries, in a process that must not hold module-level state.
"""

import ssl
from collections.abc import Sequence
from functools import partial
from typing import Any
from urllib.parse import parse_qs, parse_qsl, quote, urlencode, urlsplit, urlunsplit

from celery import Celery
from kombu.entity import Exchange, Queue

from contracts.errors import Misconfigured
from contracts.messages import SigningKeys
from contracts.topology import QUEUE_OF_ROLE
from shared_state.broker.quarantine import Quarantine
from shared_state.settings import Settings

ROLE_QUEUES: tuple[str, ...] = tuple(QUEUE_OF_ROLE.values())
VISIBILITY_SECONDS = 4 * 3600
"""After this long Redis's client hands an unacknowledged message out again. Leases recover work long before; this is
only the net under a broker that keeps messages nobody will ever acknowledge."""
HEARTBEAT_SECONDS = 5
"""A frozen worker goes on being given messages by RabbitMQ until it has missed two of these."""
_QUORUM = {"x-queue-type": "quorum", "x-consumer-timeout": VISIBILITY_SECONDS * 1000}
"""RabbitMQ (3.12 and newer, by the queue) closes the channel of whoever has not acknowledged for so long; its own half
an hour is less than a long chain of steps takes."""


def signing_keys(settings: Settings) -> SigningKeys:
    """Raises `Misconfigured` where the settings name no key: nobody may publish or consume without."""
    if not settings.signing_keys:
        raise Misconfigured(
            "signing_keys: messages must be signed; set ORCHESTRATOR_SIGNING_KEYS=name:secret, "
            "with the same value for every API, loops and worker process."
        )
    return SigningKeys({name: secret.get_secret_value().encode() for name, secret in settings.signing_keys.items()})


def make_app(
    settings: Settings,
    *,
    queues: Sequence[str] = ROLE_QUEUES,
    quarantine: Quarantine | None = None,
    keys: SigningKeys | None = None,
) -> Celery:
    """Build the application. `queues` are those a worker of it consumes.

    A worker must give `quarantine` and `keys`; who only publishes or watches leaves them out.
    """
    app = Celery(
        "orchestrator",
        broker=_address(settings.broker_url),
        set_as_current=False,
        fixups=[],
        events=None if is_redis(settings.broker_url) else "shared_state.broker.amqp_events:AmqpEvents",
    )
    broker = _broker(settings.broker_url, queues, consumes=quarantine is not None)
    app.conf.update(_delivery(), **broker, **_worker(settings.broker_url))
    if quarantine is not None and keys is not None:
        app.conf.worker_consumer = partial(_safe_consumer(), quarantine=quarantine, keys=keys)
        if is_redis(settings.broker_url):
            app.conf.broker_transport = "shared_state.broker.transport:SafeTransport"
            app.conf.broker_transport_options = {
                **app.conf.broker_transport_options,
                "quarantine": quarantine,
                "guarded_queues": tuple(queues),
            }
    return app


def is_redis(url: str) -> bool:
    return urlsplit(url).scheme in ("redis", "rediss")


def make_queue(url: str, name: str) -> Queue:
    """A durable queue on the default exchange: routing is by name alone, so no binding can be lost."""
    arguments = None if is_redis(url) else _QUORUM
    return Queue(name, exchange=Exchange(""), routing_key=name, queue_arguments=arguments, durable=True)


def _delivery() -> dict[str, Any]:
    return {
        "task_serializer": "json",
        "result_serializer": "json",
        "event_serializer": "json",
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        "task_compression": None,
        "result_backend": None,
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        "task_protocol": 2,
        # Acknowledged when Postgres is settled, whatever the outcome: retries are ours, never the broker's.
        "task_acks_late": True,
        "task_acks_on_failure": True,
        "task_acks_on_timeout": True,
        "task_reject_on_worker_lost": False,
        "task_retry_on_worker_lost": False,
        "task_create_missing_queues": False,
        "task_default_exchange": "",
        "task_default_exchange_type": "direct",
        "task_send_sent_event": False,
        "task_track_started": False,
    }


def _broker(url: str, queues: Sequence[str], *, consumes: bool) -> dict[str, Any]:
    # Who consumes tells Flower on the event loop, which must not wait to be confirmed; steps are published elsewhere.
    options = _redis_options() if is_redis(url) else {"confirm_publish": not consumes}
    return {
        "task_queues": [make_queue(url, name) for name in queues],
        "task_default_queue": queues[0],
        "task_default_routing_key": queues[0],
        "broker_transport": None if is_redis(url) else "shared_state.broker.amqp_transport:SafeAmqpTransport",
        "broker_transport_options": options,
        "broker_use_ssl": _tls(url),
        # RabbitMQ alone has them.
        "broker_heartbeat": HEARTBEAT_SECONDS,
        "broker_heartbeat_checkrate": 2.0,
        "broker_connection_timeout": 5,
        "broker_connection_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # A broker that is full, read-only or loading answers with an error: reconnect, do not exit.
        "broker_channel_error_retry": True,
        "broker_pool_limit": 50,
        "broker_pool_acquire_timeout": 5,
    }


def _redis_options() -> dict[str, Any]:
    """No `retry_*` keys: they turn off kombu's batch publishing."""
    return {
        "visibility_timeout": VISIBILITY_SECONDS,
        "unacked_restore_interval": 10,
        "unacked_restore_throttle": 1,
        "socket_timeout": 10,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 15,
        "max_connections": 200,
        "queue_order_strategy": "round_robin",
    }


def _worker(url: str) -> dict[str, Any]:
    return {
        "worker_prefetch_multiplier": 1,
        # On RabbitMQ the bound is the broker's: so many unacknowledged messages of one queue as there are slots.
        "worker_disable_prefetch": is_redis(url),
        # What is running still counts against the slots after a reconnect; a second brake could stick.
        "worker_enable_prefetch_count_reduction": False,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_send_task_events": True,
        "worker_enable_remote_control": True,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "worker_detect_quorum_queues": True,
    }


def _tls(url: str) -> dict[str, Any] | None:
    """TLS verifies the server, by its name too, unless the URL itself says otherwise; the clients' defaults would not.

    On RabbitMQ the URL may have the parameters that Redis's client knows: `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`
    and `ssl_cert_reqs`.
    """
    parts = urlsplit(url)
    if parts.scheme == "amqps":
        given = {name.removeprefix("ssl_"): value for name, value in parse_qsl(parts.query) if name.startswith("ssl_")}
        if given.pop("cert_reqs", "required") == "none":
            return {"cert_reqs": ssl.CERT_NONE, **given}
        # kombu puts the host of the URL where null is.
        return {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": None, **given}
    if parts.scheme != "rediss" or "ssl_cert_reqs" in parse_qs(parts.query):
        return None
    return {"ssl_cert_reqs": ssl.CERT_REQUIRED}


def _address(url: str) -> str:
    """For RabbitMQ's client without what `_tls` has read of it, which kombu would read in its own way."""
    parts = urlsplit(url)
    if parts.scheme != "amqps":
        return url
    kept = [(name, value) for name, value in parse_qsl(parts.query) if not name.startswith("ssl_")]
    return urlunsplit(parts._replace(query=urlencode(kept, quote_via=quote)))


def _safe_consumer() -> Any:
    # Celery's worker costs 20 MB that a process which only publishes need not pay.
    from shared_state.broker.consumer import SafeConsumer

    return SafeConsumer

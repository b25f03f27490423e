"""The settings of the Celery application that correctness or speed depends on."""

import ssl
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import celery
import pytest
from pydantic import SecretStr

from contracts.errors import Misconfigured
from contracts.messages import SigningKeys
from shared_state.broker.app import VISIBILITY_SECONDS, make_app, signing_keys
from shared_state.broker.quarantine import Quarantine
from shared_state.settings import Settings

REDIS = Settings(broker_url="redis://127.0.0.1:6379/0")
KEYS = SigningKeys({"k": b"secret"})


def worker_app(settings: Settings = REDIS) -> Any:
    return make_app(settings, queues=("execute", "gpu"), quarantine=Quarantine(lambda bad: None), keys=KEYS)


NEEDED: Mapping[str, object] = {
    "accept_content": ["json"],
    "task_serializer": "json",
    "task_compression": None,
    "result_backend": None,
    "task_ignore_result": True,
    "task_acks_late": True,
    "task_acks_on_failure": True,
    "task_acks_on_timeout": True,
    "task_reject_on_worker_lost": False,
    "task_retry_on_worker_lost": False,
    "task_create_missing_queues": False,
    "task_default_exchange": "",
    "task_send_sent_event": False,
    "worker_send_task_events": True,
    "worker_prefetch_multiplier": 1,
    "worker_disable_prefetch": True,
    "worker_enable_prefetch_count_reduction": False,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_hijack_root_logger": False,
    "broker_connection_max_retries": None,
    "broker_connection_retry_on_startup": True,
    "broker_channel_error_retry": True,
}


@pytest.mark.parametrize("name", NEEDED)
def test_a_setting_we_depend_on(name: str) -> None:
    assert worker_app().conf[name] == NEEDED[name]


def test_redis_is_asked_patiently_for_what_was_not_acknowledged() -> None:
    options = worker_app().conf.broker_transport_options
    assert options["visibility_timeout"] == VISIBILITY_SECONDS == 4 * 3600
    assert (options["unacked_restore_interval"], options["unacked_restore_throttle"]) == (10, 1)
    assert all(options[name] > 0 for name in ("socket_timeout", "socket_connect_timeout", "health_check_interval"))


def test_batches_stay_possible() -> None:
    """kombu publishes one by one where a client may retry by itself."""
    app = make_app(REDIS)
    assert not {"retry", "retry_on_timeout", "retry_on_error"} & set(app.conf.broker_transport_options)
    assert app.connection_for_write().transport.supports_batch_publish


def test_queues_are_on_the_default_exchange() -> None:
    queues = worker_app().amqp.queues
    assert set(queues) == {"execute", "gpu"}
    assert all((queue.exchange.name, queue.routing_key) == ("", name) for name, queue in queues.items())


def test_only_a_worker_takes_the_safe_way_in() -> None:
    """Flower finds the kind of its broker in the URL, and a publisher takes nothing in."""
    assert make_app(REDIS).conf.broker_transport is None
    app = worker_app()
    assert app.connection_for_read().transport_cls == "shared_state.broker.transport:SafeTransport"
    assert app.conf.worker_consumer.func.__name__ == "SafeConsumer"


def test_tls_is_verified_unless_the_url_says_otherwise() -> None:
    verified = make_app(Settings(broker_url="rediss://broker:6380/0")).connection_for_write()
    assert verified.ssl == {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    said = make_app(Settings(broker_url="rediss://broker:6380/0?ssl_cert_reqs=none")).connection_for_write()
    assert said.ssl == {"ssl_cert_reqs": ssl.CERT_NONE}
    assert make_app(REDIS).connection_for_write().ssl in (None, False)


def test_tls_is_verified_by_a_worker_too() -> None:
    connection = worker_app(Settings(broker_url="rediss://broker:6380/0")).connection_for_read()
    assert connection.ssl == {"ssl_cert_reqs": ssl.CERT_REQUIRED}


def test_rabbitmq_is_only_another_url() -> None:
    settings = Settings(broker_url="amqp://user:password@broker:5672/")
    app = worker_app(settings)
    assert app.conf.broker_transport == "shared_state.broker.amqp_transport:SafeAmqpTransport"
    assert make_app(settings).conf.broker_transport_options == {"confirm_publish": True}
    assert app.conf.broker_transport_options == {"confirm_publish": False}, "its event loop waits for no answer"
    expected = {"x-queue-type": "quorum", "x-consumer-timeout": VISIBILITY_SECONDS * 1000}
    assert all(queue.queue_arguments == expected for queue in app.amqp.queues.values())
    assert app.conf.worker_consumer.func.__name__ == "SafeConsumer"


def test_the_current_application_is_left_alone() -> None:
    before = celery.current_app._get_current_object()
    assert make_app(REDIS) is not before
    assert celery.current_app._get_current_object() is before


def test_keys_come_from_the_settings() -> None:
    keys = signing_keys(Settings(signing_keys={"a": SecretStr("0123456789abcdef")}))
    assert repr(keys) == "SigningKeys(a)"


def test_no_keys_is_a_mistake_that_says_its_remedy() -> None:
    with pytest.raises(Misconfigured, match="ORCHESTRATOR_SIGNING_KEYS"):
        signing_keys(REDIS)


def test_publishing_does_not_load_the_worker() -> None:
    code = "import sys, shared_state.broker.publisher; sys.exit('celery.worker' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

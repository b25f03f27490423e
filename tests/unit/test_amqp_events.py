"""What Flower is told, over a broker that has hung up: nothing is repaired in the middle of a publish.

The broker is a stand-in below kombu, so that this is tried where no RabbitMQ is; the rest is Celery's and ours.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from celery.events.dispatcher import EventDispatcher
from kombu import Connection
from kombu.transport import memory

from shared_state.broker.app import make_app
from shared_state.settings import Settings

ENOUGH = 5


class HangingUp(memory.Channel):
    """Counts what is sent; while it is `away` nothing arrives."""

    away = True
    tries = 0
    arrived: list[str]

    def basic_publish(self, message: Any, exchange: str, routing_key: str, **_: Any) -> None:
        broker = type(self)
        broker.tries += 1
        assert broker.tries <= ENOUGH, "it is tried for ever"
        if broker.away:
            raise ConnectionResetError("the broker has hung up")
        broker.arrived.append(routing_key)


@pytest.fixture
def broker() -> type[HangingUp]:
    return type("Broker", (HangingUp,), {"arrived": []})


@contextmanager
def dispatching(broker: type[HangingUp]) -> Iterator[EventDispatcher]:
    """As Celery's consumer makes one, of the application for RabbitMQ."""
    app = make_app(Settings(broker_url="amqp://somewhere"))
    transport = type("Transport", (memory.Transport,), {"Channel": broker})
    with Connection(transport=transport) as connection:
        yield app.events.Dispatcher(connection, hostname="w1@here", buffer_group=["task"])


def test_a_heartbeat_raises_at_once(broker: type[HangingUp]) -> None:
    """So that the consumer connects anew. With Celery's own retry it would be tried for ever, on the event loop."""
    with dispatching(broker) as dispatcher, pytest.raises(ConnectionResetError):
        dispatcher.send("worker-heartbeat", retry=True)
    assert broker.tries == 1


def test_what_others_say_meanwhile_is_kept_and_sent_over_the_next_connection(broker: type[HangingUp]) -> None:
    with dispatching(broker) as lost:
        with pytest.raises(ConnectionResetError):
            lost.send("worker-heartbeat", retry=True)
        lost.send("task-received", uuid="1")
        lost.flush()
        lost.send("worker-online")
        assert broker.arrived == []
        broker.away = False
        with dispatching(broker) as next_one:
            next_one.extend_buffer(lost)
            next_one.flush()
    assert broker.arrived == ["task.multi", "worker.online"]

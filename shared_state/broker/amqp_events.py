"""What Flower is told, on RabbitMQ: a connection that is lost must end the turn, not be repaired in the middle of it.

Celery sends its heartbeat with a retry that reconnects inside the publish. The exchange it declares there stays bound
to the old channel, so it fails and reconnects for ever, thousands of times a second, on the event loop's own thread: a
worker that was frozen until RabbitMQ hung up would never take a message again (tests/acceptance/test_frozen_worker.py
on RabbitMQ shows it).
"""

from typing import Any

from celery.app.events import Events
from celery.events.dispatcher import EventDispatcher


class AmqpDispatcher(EventDispatcher):
    def _publish(self, event: Any, producer: Any, routing_key: str, retry: bool = False, **_: Any) -> None:
        """Never with a retry. The heartbeat, which asks for one, raises: the consumer then connects anew, with a new
        dispatcher that sends what others could not send meanwhile. All calls come under the dispatcher's lock."""
        self.buffer_while_offline = not retry
        super()._publish(event, producer, routing_key)


class AmqpEvents(Events):
    dispatcher_cls = f"{__name__}:{AmqpDispatcher.__name__}"

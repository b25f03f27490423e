"""The application Flower looks at: `celery -A shared_state.broker.flower_app:app flower --read-only`.

Built from the settings of the environment when this module is imported; it only watches, so it has neither keys nor
a quarantine.
"""

from celery import Celery

from shared_state.broker.app import make_app
from shared_state.settings import from_environment


def make_flower_app() -> Celery:
    """Raises `Misconfigured` where a setting is wrong."""
    return make_app(from_environment())


app = make_flower_app()

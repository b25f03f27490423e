"""Logs: one structured line an event, readable or JSON, without secrets."""

import logging
import sys
import warnings
from collections.abc import MutableMapping
from typing import Any

import structlog

from shared_state.redaction import Redaction, by_name, secrets_of
from shared_state.settings import Settings


def configure_logs(settings: Settings) -> None:
    """Set up this process's logging, once, at its start; the standard library's loggers go the same way."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        blank_names,
    ]
    as_json = settings.log_format == "json"
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            # The default shows local variables, and those hold inputs and secrets.
            exception_formatter=structlog.dev.plain_traceback,
        )
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    redaction = Redaction(secrets_of(settings))

    def redact(_logger: Any, _method: str, line: Any) -> Any:
        """The last step: what was rendered, tracebacks included."""
        return redaction.text(line)

    handler = logging.StreamHandler(sys.stderr)
    tracebacks = [structlog.processors.format_exc_info] if as_json else []
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *tracebacks, renderer, redact],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # Celery tells of every message; our own line per settled attempt says more.
    logging.getLogger("celery").setLevel(max(level, logging.WARNING))
    logging.getLogger("alembic").setLevel(max(level, logging.WARNING))
    # A line for each call to a model says less than the journal.
    logging.getLogger("httpx2").setLevel(max(level, logging.WARNING))
    logging.captureWarnings(True)
    # Celery warns because of pickle, which nothing here accepts.
    warnings.filterwarnings("ignore", message="You're running the worker with superuser privileges")


def blank_names(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Blank what is named like a secret."""
    for name, value in event.items():
        event[name] = by_name(name, value)
    return event

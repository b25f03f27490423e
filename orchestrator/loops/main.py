"""The loops process: wires the loops, runs each in a thread, ends all on SIGTERM."""

import signal
import threading

import structlog
from sqlalchemy import Engine

from contracts.errors import Misconfigured
from orchestrator.loops.inspector import inspect_pass
from orchestrator.loops.listener import listen
from orchestrator.loops.metrics import LoopMetrics
from orchestrator.loops.runner import Loop, run_loop
from orchestrator.loops.webhook import Webhook, tell
from shared_state import collect, outbox, presence, prune, sweep, transitions
from shared_state.artifacts import open_bodies
from shared_state.broker.app import make_app, signing_keys
from shared_state.broker.publisher import Publisher
from shared_state.engine import make_engine
from shared_state.inspection import Inspector
from shared_state.metrics import Pools, make_registry, open_endpoint
from shared_state.migrate import refusal, require_served
from shared_state.settings import Settings
from shared_state.telemetry import Tracing, open_tracing

log = structlog.get_logger("loops")

WINDOW = 500
"""How many published, unclaimed entries one queue may have: enough to keep workers busy, few enough to stay fair."""


def make_loops(
    settings: Settings,
    engine: Engine,
    publisher: outbox.MessagePublisher,
    inspector: Inspector | None = None,
    metrics: LoopMetrics | None = None,
    tracing: Tracing | None = None,
) -> list[Loop]:
    seen = metrics or LoopMetrics()

    def relay_pass() -> bool:
        done = outbox.relay(engine, publisher, republish_seconds=settings.republish_seconds, window=WINDOW)
        seen.relayed(done)
        if done.republished:
            # A backlog that nobody has a slot for, or messages that were lost. Apart from recovered leases.
            log.info("backlog.republished", count=done.republished)
        return done.found_work

    def sweep_pass() -> bool:
        recovered, wakeups = sweep.sweep(engine, tracing=tracing)
        outbox.publish(publisher, wakeups)
        seen.recovered.inc(recovered)
        if recovered:
            transitions.recovered(recovered)
        presence.mark_silent(engine, max(60.0, settings.lease_seconds * 2))
        return recovered > 0

    def stage_pass() -> bool:
        return outbox.stage(engine) > 0

    def prune_pass() -> bool:
        gone = prune.prune(
            engine,
            retention_days=settings.retention_days,
            dead_letter_retention_days=settings.dead_letter_retention_days,
        )
        return gone["tasks"] > 0

    def collect_pass() -> bool:
        count = collect.collect_artifacts(engine, bodies, grace_days=settings.artifact_grace_days)
        if count:
            log.info("artifacts.collected", count=count)
        return count >= collect.PASS_LIMIT

    bodies = open_bodies(settings.artifact_url)
    loops = [
        Loop("relay", relay_pass, every_seconds=0.5),
        Loop("sweeper", sweep_pass, every_seconds=settings.sweep_seconds),
        Loop("stager", stage_pass, every_seconds=0.5),
        Loop("pruner", prune_pass, every_seconds=600.0, busy_seconds=1.0),
        Loop("collector", collect_pass, every_seconds=6 * 3600.0, busy_seconds=1.0),
    ]
    webhook = webhook_of(settings)
    if webhook is not None:
        loops.append(Loop("webhook", lambda: tell(engine, webhook), every_seconds=1.0))
    if settings.verify_seconds and inspector is not None:
        loops.append(Loop("inspector", lambda: inspect_pass(inspector, seen), every_seconds=settings.verify_seconds))
    return loops


def webhook_of(settings: Settings) -> Webhook | None:
    if settings.dead_letter_webhook_url is None:
        return None
    secret = settings.dead_letter_webhook_secret
    return Webhook(settings.dead_letter_webhook_url.get_secret_value(), secret.get_secret_value() if secret else None)


def run_loops(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Raises `Misconfigured` once the schema no longer serves this release."""
    stop, wake_relay = threading.Event(), threading.Event()

    def finish(*_: object) -> None:
        stop.set()

    # First of all: who is told to stop while it starts ends as cleanly as later.
    signal.signal(signal.SIGTERM, finish)
    signal.signal(signal.SIGINT, finish)
    tracing = open_tracing("orchestrator-loops")
    registry = make_registry()
    metrics = LoopMetrics(registry)
    endpoint = open_endpoint(settings, registry)
    engine = make_engine(settings.database_url, pool_size=5, application="orchestrator-loops")
    require_served(engine)
    publisher = Publisher(make_app(settings), signing_keys(settings), tracing=tracing)
    # A pool of its own, whose one connection holds the inspector's lock.
    inspecting = make_engine(settings.database_url, pool_size=1, application="orchestrator-inspector")
    Pools(registry, [("loops", engine)])
    refusals: list[str] = []

    def schema_pass() -> bool:
        reason = refusal(engine)
        if reason is not None:
            log.error("loops.refused", text=reason)
            refusals.append(reason)
            stop.set()
        return False

    wakes = {"relay": wake_relay}
    threads = [
        threading.Thread(
            target=run_loop, args=(loop, stop, wakes.setdefault(loop.name, threading.Event()), metrics), name=loop.name
        )
        for loop in [
            *make_loops(settings, engine, publisher, Inspector(inspecting), metrics, tracing),
            Loop("schema", schema_pass, every_seconds=5.0),
        ]
    ]
    url = settings.database_url
    threads.append(threading.Thread(target=listen, args=(url, wake_relay, stop), name="listener"))
    for thread in threads:
        thread.start()
    log.info("loops.started")
    stop.wait()
    for wake in wakes.values():
        wake.set()
    for thread in threads:
        thread.join(timeout=5)
    inspecting.dispose()
    if endpoint is not None:
        endpoint.close()
    if tracing is not None:
        tracing.close()
    log.info("loops.stopped")
    if refusals:
        raise Misconfigured(refusals[0])

"""The application: routes, services and their lifetime, put together in one place."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from pydantic import BaseModel
from sqlalchemy import Engine

from orchestrator.api import dead_letters, events, installation, problems, questions, schemas, steering, steps, tasks
from orchestrator.api.feed import Feed
from orchestrator.api.headers import SecurityHeaders
from orchestrator.api.limits import Limits
from orchestrator.api.load import LoadLimit
from orchestrator.api.metrics import InstallationMetrics
from orchestrator.api.rates import RateLimits
from orchestrator.api.services import Services
from orchestrator.api.spans import TraceRequests
from orchestrator.api.traffic import PREFIX, CountTraffic, Traffic
from orchestrator.api.vitals import Vitals
from orchestrator.api.wakeups import WakeupSender
from orchestrator.auth import Authenticator
from shared_state.artifacts import ArtifactStore, open_bodies
from shared_state.broker.buckets import open_buckets
from shared_state.broker.publisher import Publisher
from shared_state.forks import Forking
from shared_state.settings import Settings
from shared_state.submitter import Submitter
from shared_state.tasks import Submission
from shared_state.teams_cache import TeamsCache
from shared_state.telemetry import Tracing
from shared_state.tenant_wall import TenantEngines

_BODIES: list[type[BaseModel]] = [
    Submission,
    Forking,
    *dead_letters.BODIES,
    questions.Answer,
    steering.Pausing,
]


def make_api(
    settings: Settings,
    engine: Engine,
    publisher: Publisher,
    *,
    walled: bool = False,
    traffic: Traffic | None = None,
    tracing: Tracing | None = None,
) -> FastAPI:
    """The whole HTTP API, as an ASGI application. `walled`: row-level security binds what it does for a caller.

    Raises `Misconfigured` for an unusable `artifact_url`.
    """
    stored = open_bodies(settings.artifact_url)
    tenants = TenantEngines(engine, walled=walled)
    buckets = open_buckets(settings.broker_url) if settings.rate_per_second else None
    wakeups = WakeupSender(publisher)
    teams = TeamsCache()
    services = Services(
        engine=engine,
        tenants=tenants,
        publisher=publisher,
        wakeups=wakeups,
        submitter=Submitter(wakeups.send, teams),
        feed=Feed(engine, tenants),
        authenticator=Authenticator(engine),
        open_store=lambda tenant: ArtifactStore(tenants.of(tenant), tenant, stored),
        limits=Limits.of(settings),
        rates=RateLimits(buckets, rate=settings.rate_per_second, burst=settings.rate_burst),
        vitals=Vitals(engine, settings),
        metrics=InstallationMetrics(engine, settings),
        teams=teams,
    )

    @asynccontextmanager
    async def lifespan(_api: FastAPI) -> AsyncIterator[None]:
        services.wakeups.start()
        yield
        await services.feed.stop()
        services.wakeups.stop()
        if buckets is not None:
            buckets.close()

    api = FastAPI(
        title="agent-orchestrator",
        version=version("agent-orchestrator"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    api.state.services = services
    routers = (tasks, events, steps, dead_letters, questions, steering)
    for router in (each.router for each in routers):
        api.include_router(router, prefix=PREFIX)
    api.include_router(installation.router, prefix=PREFIX)
    api.include_router(installation.probes, prefix=PREFIX)
    api.include_router(installation.probes, include_in_schema=False)
    api.include_router(installation.metrics)
    api.add_middleware(LoadLimit, limit=settings.max_requests)
    api.add_middleware(SecurityHeaders)
    if tracing is not None:
        api.add_middleware(TraceRequests, tracing=tracing)
    api.add_middleware(CountTraffic, traffic=traffic or Traffic())
    problems.install(api, services.vitals.note_away)
    schemas.install(api, _BODIES, settings.max_page_size)
    return api

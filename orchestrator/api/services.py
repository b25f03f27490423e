"""What every request may use, and who is asking."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Annotated
from urllib.parse import unquote
from uuid import UUID

from fastapi import Depends, Request
from sqlalchemy import Engine

from contracts.errors import InvalidInput, NotFound
from orchestrator.api.bodies import Received, read_body
from orchestrator.api.feed import Feed
from orchestrator.api.limits import Limits
from orchestrator.api.metrics import InstallationMetrics
from orchestrator.api.rates import RateLimits
from orchestrator.api.vitals import Vitals
from orchestrator.api.wakeups import WakeupSender
from orchestrator.auth import Authenticator, Permission, demand
from shared_state.artifacts import ArtifactStore
from shared_state.broker.publisher import Publisher
from shared_state.keys import Caller
from shared_state.submitter import Submitter
from shared_state.teams_cache import TeamsCache
from shared_state.tenant_wall import TenantEngines


@dataclass(frozen=True)
class Services:
    engine: Engine
    """In a request of a caller: bound to the caller's tenant, where the wall between tenants stands."""
    tenants: TenantEngines
    publisher: Publisher
    wakeups: WakeupSender
    submitter: Submitter
    feed: Feed
    authenticator: Authenticator
    open_store: Callable[[str], ArtifactStore]
    """The artifacts of one tenant."""
    limits: Limits
    rates: RateLimits
    vitals: Vitals
    metrics: InstallationMetrics
    teams: TeamsCache


async def services_of(request: Request) -> Services:
    return _services(request)


def _services(request: Request) -> Services:
    services = request.app.state.services
    if not isinstance(services, Services):
        raise AssertionError("the application was made without its services")
    return services


def _caller(request: Request) -> Caller:
    if "\x00" in request.url.path or "\x00" in unquote(request.url.path):
        raise NotFound("there is nothing at this address: it holds NUL")
    for name, value in request.query_params.multi_items():
        if "\x00" in name or "\x00" in value:
            raise InvalidInput("the query must not contain NUL; remove it", field=name.replace("\x00", ""))
    services = _services(request)
    services.vitals.require_database()
    caller = services.authenticator.caller(request.headers.get("authorization"))
    services.rates.spend(caller.prefix)
    services.limits.check_page(request.query_params.get("limit"))
    return caller


async def _ours(request: Request, caller: Annotated[Caller, Depends(_caller)]) -> Services:
    services = _services(request)
    return replace(services, engine=services.tenants.of(caller.tenant))


def _permitted(permission: Permission) -> Callable[[Caller], Awaitable[Caller]]:
    async def check(caller: Annotated[Caller, Depends(_caller)]) -> Caller:
        demand(caller, permission)
        return caller

    return check


async def _body(request: Request) -> Received:
    return await read_body(request, _services(request).limits)


Everyones = Annotated[Services, Depends(services_of)]
"""Not bound to any tenant: for what is asked without a key."""
Ours = Annotated[Services, Depends(_ours)]
ReaderOnly = Depends(_permitted(Permission.READ))
"""For what looks the same to every reader."""
Reader = Annotated[Caller, ReaderOnly]
Operator = Annotated[Caller, Depends(_permitted(Permission.OPERATE))]
Decider = Annotated[Caller, Depends(_permitted(Permission.DECIDE))]
Administrator = Annotated[Caller, Depends(_permitted(Permission.ADMINISTER))]
Body = Annotated[Received, Depends(_body)]
"""Declared after the caller, so that nobody without a key can make us read a body."""


def parse_id(text: str, what: str) -> UUID:
    """A path's id. What is no UUID names nothing, so it is as unknown as any other id: `NotFound`."""
    try:
        if len(text) == 36:
            return UUID(text)
    except ValueError:
        pass
    raise NotFound(f"there is no {what} {text[:50]!r}: an id is a UUID, copied from a listing")

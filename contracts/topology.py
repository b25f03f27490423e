"""Queues and handlers: where a message of a kind goes and what runs it. Plain data, no broker."""

from collections.abc import Mapping
from enum import StrEnum

from contracts.teams import Agent, Role


class MessageKind(StrEnum):
    PLAN = "plan"
    EXECUTE = "execute"
    REVIEW = "review"


KIND_OF_ROLE: Mapping[Role, MessageKind] = {
    Role.PLANNER: MessageKind.PLAN,
    Role.EXECUTOR: MessageKind.EXECUTE,
    Role.REVIEWER: MessageKind.REVIEW,
}

QUEUE_OF_ROLE: Mapping[Role, str] = {role: kind.value for role, kind in KIND_OF_ROLE.items()}

HANDLER_OF_KIND: Mapping[MessageKind, str] = {kind: f"orchestrator.{kind}" for kind in MessageKind}
"""Names that Celery and Flower show. They are the wire: never derive them from module paths."""


def queue_of(agent: Agent) -> str:
    return agent.queue or QUEUE_OF_ROLE[agent.role]

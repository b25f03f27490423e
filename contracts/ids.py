"""Identifiers. Every row's id is a UUIDv7, so ids sort by creation time and cannot be guessed."""

from typing import NewType
from uuid import UUID

TaskId = NewType("TaskId", UUID)
StepId = NewType("StepId", UUID)
TenantId = NewType("TenantId", str)
Epoch = NewType("Epoch", int)
"""The generation of a step. It grows by one every time the step becomes ready (or reviewing), a message names
it, and the attempt that claims it carries it as its fencing token."""


def uuid7(unix_milliseconds: int, entropy: bytes) -> UUID:
    """Build a version 7 UUID (RFC 9562, section 5.7) from a time and ten random bytes."""
    value = (unix_milliseconds & ((1 << 48) - 1)) << 80
    value |= int.from_bytes(entropy[:10], "big")
    value &= ~(0xF << 76) & ~(0x3 << 62)
    value |= 0x7 << 76 | 0x2 << 62
    return UUID(int=value)

"""Models by name: one client for each provider, address and key of a worker process, with its own retries off.

A failed call is tried again by the step's retry table and by nothing else. Keys are read when an attempt begins, from
where the team says; they are in no message, no table and no log, and `redact` takes them out of whatever is stored.
"""

import hashlib
import inspect
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx2
from pydantic_ai.exceptions import UserError
from pydantic_ai.models import Model, infer_model
from pydantic_ai.providers import infer_provider_class

from contracts.errors import OrchestratorError
from contracts.teams import Agent
from shared_state.settings import Settings
from workers.llm.wire import Witness

CONNECT_SECONDS = 10.0
CONNECTIONS = 500
NO_KEY = "none-is-needed"
"""What servers that want no key are sent."""


class NotConfigured(OrchestratorError):
    """Nobody has said which model, or where its key is."""

    code = "model.not_configured"


class Providers:
    """What it makes is used on one event loop only."""

    def __init__(self, settings: Settings, environ: Mapping[str, str] = os.environ) -> None:
        self._settings = settings
        self._environ = environ
        self._lock = threading.Lock()
        self._models: dict[str, Model] = {}
        self._clients: dict[float, httpx2.AsyncClient] = {}
        self._transport = Witness(httpx2.AsyncHTTPTransport(limits=httpx2.Limits(max_connections=CONNECTIONS)))
        self._secrets: set[str] = set()

    def model(self, agent: Agent) -> Model:
        """Raises `NotConfigured` with what to set, or `UserError` for a name that pydantic-ai does not know."""
        name, base_url = (
            (agent.model, agent.base_url) if agent.model else (self._settings.model, self._settings.model_base_url)
        )
        if not name:
            raise NotConfigured(
                "the agent names no model and the installation has none: set ORCHESTRATOR_MODEL (such as "
                "openai-chat:gpt-5-mini) and ORCHESTRATOR_MODEL_API_KEY where the workers run, then redrive"
            )
        key = self._key(agent)
        if key:
            self._secrets.add(key)
        silence = agent.settings.silence_seconds
        known = hashlib.sha256("\0".join([name, base_url or "", key or "", str(silence)]).encode()).hexdigest()
        with self._lock:
            if known not in self._models:
                self._models[known] = infer_model(
                    name, lambda provider: self._provider(provider, base_url, key, silence)
                )
            return self._models[known]

    def redact(self, text: str) -> str:
        """Without any key that was read so far."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    async def close(self) -> None:
        for client in self._clients.values():
            await client.aclose()

    def _key(self, agent: Agent) -> str | None:
        if agent.model is None:
            secret = self._settings.model_api_key
            return secret.get_secret_value() if secret else None
        if agent.api_key is None:
            return None
        kind, _, where = agent.api_key.partition(":")
        try:
            found = self._environ.get(where, "") if kind == "env" else Path(where).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise NotConfigured(
                f"api_key: {where} cannot be read where the worker runs: {type(error).__name__}"
            ) from error
        if not found.strip():
            raise NotConfigured(f"api_key: {agent.api_key} is not set, or empty, where the worker runs")
        return found.strip()

    def _provider(self, name: str, base_url: str | None, key: str | None, silence: float) -> Any:
        try:
            kind: Callable[..., Any] = infer_provider_class(name)
        except ValueError as error:
            raise UserError(f"there is no provider {name!r}") from error
        given: dict[str, Any] = {"http_client": self._client(silence)}
        takes_url = "base_url" in inspect.signature(kind).parameters
        if base_url:
            given |= {"api_key": key or NO_KEY} | ({"base_url": base_url} if takes_url else {})
        elif key:
            given["api_key"] = key
        made = kind(**given)
        if base_url and not takes_url:
            made.client.base_url = base_url
        if hasattr(made.client, "max_retries"):
            made.client.max_retries = 0
        own = getattr(made.client, "api_key", None)
        if isinstance(own, str) and own != NO_KEY and len(own) >= 8:
            self._secrets.add(own)
        return made

    def _client(self, silence: float) -> httpx2.AsyncClient:
        """One for all addresses: it keeps connections apart by itself, and reads the system's certificates once."""
        if silence not in self._clients:
            timeout = httpx2.Timeout(silence, connect=CONNECT_SECONDS)
            client = httpx2.AsyncClient(transport=self._transport, timeout=timeout, follow_redirects=False)
            self._clients[silence] = client
        return self._clients[silence]

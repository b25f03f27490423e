"""What no log line may hold: values by the names they go under, this process's own secrets, and what looks like one."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from pydantic import SecretStr

from shared_state.settings import SECRET_PARAMETER, Settings

BLANK = "***"
SHORTEST = 6
"""Characters of a secret that is looked for by value: a shorter one would blank ordinary words."""
_SECRET_NAME = re.compile(r"password|secret|token|api_key|authorization|signature", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(\w+://[^\s/:@]*:)[^\s@]+@")
_CREDENTIALS = re.compile(r"\b(bearer|basic)(\s+)[A-Za-z0-9._~+/=:-]{8,}", re.IGNORECASE)


class Redaction:
    """`text` is a whole line, as it is to be written: also what exceptions say, and what other libraries log."""

    def __init__(self, secrets: set[str]) -> None:
        known = {secret for secret in secrets if len(secret) >= SHORTEST}
        # As it is, as it stands in JSON, and as it stands in a URL.
        forms = {form for secret in known for form in (secret, json.dumps(secret)[1:-1], quote(secret, safe=""))}
        longest_first = sorted(forms, key=len, reverse=True)
        self._values = re.compile("|".join(map(re.escape, longest_first))) if forms else None

    def text(self, line: str) -> str:
        if self._values is not None:
            line = self._values.sub(BLANK, line)
        line = _CREDENTIALS.sub(rf"\1\2{BLANK}", line)
        return _URL_PASSWORD.sub(rf"\1{BLANK}@", line) if "://" in line else line


def by_name(name: str, value: Any) -> Any:
    """The value, or nothing of it where its name, or one inside of it, says that it is secret."""
    if _SECRET_NAME.search(name):
        return BLANK
    if isinstance(value, Mapping):
        return {key: by_name(str(key), each) for key, each in value.items()}
    return value


def secrets_of(settings: Settings) -> set[str]:
    """Every value of the settings that must not be printed, passwords inside of URLs included."""
    return {secret for key in Settings.model_fields for secret in _secrets_in(getattr(settings, key))}


def _secrets_in(value: object) -> Iterator[str]:
    match value:
        case SecretStr():
            yield value.get_secret_value()
        case dict():
            for each in value.values():
                yield from _secrets_in(each)
        case str() if "://" in value:
            parts = urlsplit(value)
            if parts.password:
                yield parts.password
                yield unquote(parts.password)
            yield from (found for name, found in parse_qsl(parts.query) if SECRET_PARAMETER.search(name))

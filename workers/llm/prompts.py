"""Prompts: the text of a team's `.md` file with what it says in double braces filled in.

`{{ goal }}` is the task's goal, `{{ input }}` the step's input as JSON, `{{ input.url }}` a part of it. Nothing else is
known; a name that is not there is an error, never an empty place.
"""

import json
import re
from typing import Any

from contracts.errors import OrchestratorError

_VARIABLE = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")
_NAME = re.compile(r"^(goal|input(\.[A-Za-z0-9_-]+)*)$")


class Undefined(OrchestratorError):
    """A prompt names something that there is not."""

    code = "model.prompt"


def check_prompt(text: str) -> None:
    """Raises `Undefined` for a name that no step could give a value."""
    for name in _VARIABLE.findall(text):
        if not _NAME.match(name):
            raise Undefined(f"{{{{ {name} }}}} is not known: a prompt may name goal, input and parts of it (input.url)")


def render(text: str, *, goal: str, given: Any) -> str:
    """Raises `Undefined` for what this step's input does not have."""

    def fill(found: re.Match[str]) -> str:
        name = found[1]
        check_prompt(found[0])
        value: Any = goal if name == "goal" else given
        for part in name.split(".")[1:]:
            if isinstance(value, dict) and part in value:
                value = value[part]
            elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
                value = value[int(part)]
            else:
                raise Undefined(f"{{{{ {name} }}}}: the step's input has no {name.partition('.')[2]!r}")
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    return _VARIABLE.sub(fill, text)

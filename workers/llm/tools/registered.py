"""The tools there are: the one place where they are registered. All of them only read, and only what is here."""

from collections.abc import Mapping, Sequence

from contracts.errors import InvalidInput
from workers.llm.tools.computing import CALCULATE, CLOCK
from workers.llm.tools.reading import LIST_SOURCES, READ_SOURCE, SEARCH_SOURCES
from workers.llm.tools.tool import Tool

_ALL = (LIST_SOURCES, SEARCH_SOURCES, READ_SOURCE, CALCULATE, CLOCK)
TOOLS: Mapping[str, Tool] = {tool.name: tool for tool in _ALL}


def find_tools(names: Sequence[str]) -> tuple[Tool, ...]:
    """Raises `InvalidInput` for a name that nothing is registered under."""
    for name in names:
        if name not in TOOLS:
            raise InvalidInput(f"there is no tool {name!r}; there are {', '.join(sorted(TOOLS))}", field="tools")
    return tuple(TOOLS[name] for name in dict.fromkeys(names))

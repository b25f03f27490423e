"""Tools of LLM agents: what a model may ask for while it works. No model SDK is imported here."""

from workers.llm.tools.answers import ANSWER_LIMIT_BYTES, ToolCode
from workers.llm.tools.call import Called, call, refuse
from workers.llm.tools.registered import TOOLS, find_tools
from workers.llm.tools.sources import Sources
from workers.llm.tools.tool import Desk, Tool

__all__ = [
    "ANSWER_LIMIT_BYTES",
    "TOOLS",
    "Called",
    "Desk",
    "Sources",
    "Tool",
    "ToolCode",
    "call",
    "find_tools",
    "refuse",
]

"""Tools that compute: a calculator, and the clock."""

from datetime import UTC
from zoneinfo import ZoneInfo

from pydantic import Field

from workers.llm.tools.answers import Answer, Refusal, Success, ToolCode
from workers.llm.tools.calculator import EXPRESSION_LIMIT, NotCalculable, calculate
from workers.llm.tools.tool import Arguments, Desk, Tool


class Calculate(Arguments):
    expression: str = Field(
        min_length=1,
        max_length=EXPRESSION_LIMIT,
        description="Numbers, + - * / // % **, parentheses, abs, ceil, floor, max, min, round, sqrt, sum; such as "
        "round(1200 * 1.19, 2).",
    )


def _calculate(desk: Desk, arguments: Calculate) -> Answer:
    del desk
    try:
        result = calculate(arguments.expression)
    except NotCalculable as error:
        return Refusal(ToolCode.ARGUMENTS, str(error), retryable=True)
    return Success({"value": result.value, "exact": result.exact})


class Clock(Arguments):
    timezone: str = Field(default="UTC", max_length=100, description="An IANA name such as Europe/Berlin.")


def _clock(desk: Desk, arguments: Clock) -> Answer:
    try:
        zone = ZoneInfo(arguments.timezone)
    except (KeyError, ValueError, OSError):
        said = "timezone is not known here; use an IANA name such as Europe/Berlin, or UTC"
        return Refusal(ToolCode.ARGUMENTS, said, retryable=True)
    now = desk.now().astimezone(UTC)
    return Success(
        {
            "utc": now.isoformat(timespec="seconds"),
            "local": now.astimezone(zone).isoformat(timespec="seconds"),
            "weekday": now.astimezone(zone).strftime("%A"),
        }
    )


CALCULATE = Tool(
    "calculate",
    "Calculates exactly. Use it for every number that you do not merely copy.",
    Calculate,
    _calculate,
)
CLOCK = Tool("clock", "Says what time it is.", Clock, _clock, repeatable=False)

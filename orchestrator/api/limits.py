"""What one request may hold: every bound in one place, from the settings."""

from dataclasses import dataclass
from typing import Any

from contracts.errors import InvalidInput
from shared_state.settings import Settings


@dataclass(frozen=True)
class Limits:
    """Each names its setting in the refusal, so that who meets it knows what to ask for."""

    body_bytes: int
    json_depth: int
    string_length: int
    page_size: int
    plan_steps: int

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        return cls(
            body_bytes=settings.max_body_bytes,
            json_depth=settings.max_json_depth,
            string_length=settings.max_string_length,
            page_size=settings.max_page_size,
            plan_steps=settings.max_plan_steps,
        )

    def check_page(self, limit: str | None) -> None:
        """Of a query's `limit` as text; whether it is a number at all is for the query's own model to say."""
        if limit is not None and limit.isdecimal() and len(limit) < 20 and int(limit) > self.page_size:
            text = f"limit: a page has at most {self.page_size} items (max_page_size); follow next_cursor for more"
            raise InvalidInput(text, field="limit")

    def check_plan(self, submission: dict[str, Any]) -> None:
        """Before the plan is looked at step by step, which would take long for one that is refused anyway."""
        plan = submission.get("plan")
        steps = plan.get("steps") if isinstance(plan, dict) else None
        if isinstance(steps, list) and len(steps) > self.plan_steps:
            text = f"plan.steps: {len(steps)} steps are more than the {self.plan_steps} of max_plan_steps"
            raise InvalidInput(f"{text}; make fewer and larger ones, or several tasks", field="plan.steps")

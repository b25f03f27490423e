"""Reads for people: every function answers one question of the API for one tenant, in the shapes of `shapes.py`.

`views.tasks.read` gives one, `views.tasks.page` a list. A foreign tenant's id is as unknown as one that never was:
`NotFound`. Lists are keyset pages: newest first by id, steps by rank and key, teams by name.
"""

from shared_state.views import (
    dead_letters,
    installation,
    model_calls,
    overview,
    questions,
    results,
    steps,
    tasks,
    teams,
)

__all__ = [
    "dead_letters",
    "installation",
    "model_calls",
    "overview",
    "questions",
    "results",
    "steps",
    "tasks",
    "teams",
]

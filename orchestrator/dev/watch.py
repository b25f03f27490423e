"""The supervisor's eye: notices that a part died, and starts it again when it is time."""

import time
from collections.abc import Callable

from contracts.errors import OrchestratorError
from orchestrator.dev.parts import Part


class Watched:
    """One part under supervision. `tell` gets lines for people; `on_death` is called once per death."""

    def __init__(self, part: Part, tell: Callable[[str], None], on_death: Callable[[Part], None]) -> None:
        self.part = part
        self._tell = tell
        self._on_death = on_death
        self._start_at: float | None = None
        self._failure = ""

    def tick(self) -> bool:
        """Start it again if it is dead and due. Whether anything changed."""
        if self.part.alive():
            return False
        now = time.monotonic()
        if self._start_at is None:
            self._notice(now)
        if self._start_at is None or now < self._start_at:
            return False
        return self._start(now)

    def _notice(self, now: float) -> None:
        delay = self.part.restarts.delay_after(self.part.started_at, now)
        self._start_at = now + delay
        self._on_death(self.part)
        when = f"in {delay:g} s" if delay else "now"
        self._tell(f"{self.part.name} {self.part.ending()}; it is started again {when}")

    def _start(self, now: float) -> bool:
        self._start_at = None
        try:
            self.part.start()
        except (OrchestratorError, OSError) as error:
            if str(error) != self._failure:  # once a reason: this may go on for long
                self._tell(f"{self.part.name} does not start: {error}")
            self._failure = str(error)
            self._start_at = now + max(1.0, self.part.restarts.delay_after(now, now))
            return False
        self._failure = ""
        return True

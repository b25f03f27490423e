"""When to start again what died: at once after a good run, ever later while it dies young."""

YOUNG_SECONDS = 10.0
FIRST_SECONDS = 0.25
LONGEST_SECONDS = 10.0


class Restarts:
    """Deaths of one part. Times are of one monotonic clock, in seconds."""

    def __init__(self) -> None:
        self.count = 0
        self._young_deaths = 0

    def delay_after(self, started_at: float, died_at: float) -> float:
        """Note a death; returns how long to wait before the next start."""
        self.count += 1
        if died_at - started_at >= YOUNG_SECONDS:
            self._young_deaths = 0
            return 0.0
        self._young_deaths += 1
        return 0.0 if self._young_deaths == 1 else min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** (self._young_deaths - 2))

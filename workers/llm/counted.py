"""The journal of calls to models, with each call that was written in it counted as well."""

from dataclasses import dataclass

from shared_state.model_calls import Call, Journal, Recorded
from workers.metrics import WorkerMetrics


@dataclass(frozen=True)
class CountedJournal:
    journal: Journal
    agent: str
    metrics: WorkerMetrics

    def read(self, conversation: str) -> Recorded:
        return self.journal.read(conversation)

    def write(self, call: Call) -> None:
        """Raises `Unavailable`, as the journal does; then nothing is counted, for it is written again."""
        self.journal.write(call)
        self.metrics.called(
            self.agent,
            call.model,
            call.past.ending,
            seconds=call.seconds,
            input_tokens=call.past.input_tokens,
            output_tokens=call.past.output_tokens,
        )

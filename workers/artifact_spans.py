"""An attempt's artifacts, with a span for each that it writes: its size and digest, never its bytes."""

from dataclasses import dataclass

from contracts.context import ArtifactRef, Artifacts
from shared_state.telemetry import Tracing, note, note_failure


@dataclass(frozen=True)
class TracedArtifacts:
    artifacts: Artifacts
    tracing: Tracing
    parent: str | None

    def put(self, data: bytes, media_type: str = "application/octet-stream") -> ArtifactRef:
        span = self.tracing.begin("artifact put", self.parent, {"orchestrator.artifact.size_bytes": len(data)})
        try:
            ref = self.artifacts.put(data, media_type)
            note(span, {"orchestrator.artifact.sha256": ref.sha256})
            return ref
        except Exception as error:
            note_failure(span, type(error).__name__)
            raise
        finally:
            span.end()

    def get(self, ref: ArtifactRef | str) -> bytes:
        return self.artifacts.get(ref)

"""Where an agent's body runs: a thread of the worker, or a killable process that costs only its own attempt."""

from workers.isolation.process import ProcessRunner
from workers.isolation.ran import Ran
from workers.isolation.runner import AttemptRunner, LlmAttempts
from workers.isolation.thread import ThreadRunner

__all__ = ["AttemptRunner", "LlmAttempts", "ProcessRunner", "Ran", "ThreadRunner"]

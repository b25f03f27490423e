"""Limits: the one place where they are looked at, before anything is spent. What is over one ends as its code."""

from collections import Counter
from collections.abc import Iterable, Sequence

from contracts.errors import Failure
from contracts.llm import Limits
from shared_state.model_calls import Past

CHARACTERS_OF_A_TOKEN = 6
"""More than a token has in most texts: what a request is taken to have is below what will be counted."""


class Bounds:
    """What a step has used so far, its earlier attempts included."""

    def __init__(self, limits: Limits, past: Iterable[Past] = (), asked: Iterable[str] = ()) -> None:
        """`asked` are the requests for tools in `past`, each as its name and arguments."""
        self._limits = limits
        self._turns = self._tool_calls = self._input_tokens = self._output_tokens = self._told = 0
        self._asked = Counter(asked)
        for each in past:
            self.count(each)

    @property
    def output_tokens_left(self) -> int:
        return max(0, self._limits.output_tokens - self._output_tokens)

    @property
    def turns(self) -> int:
        return self._turns

    @property
    def tokens(self) -> int:
        """Read and written."""
        return self._input_tokens + self._output_tokens

    def count(self, call: Past) -> None:
        """A call that has ended."""
        self._input_tokens += call.input_tokens
        self._output_tokens += call.output_tokens
        if call.answered:
            self._turns += 1
            self._tool_calls += call.tool_calls
            self._told = self._told + 1 if call.told else 0

    def check_call(self, characters: int) -> Failure | None:
        """Why the model may not be asked again, with a request of so many characters."""
        limits = self._limits
        if self._told > limits.unparsable_answers:
            return self._over("unparsable", f"{self._told} answers in a row could not be used")
        if self._turns >= limits.turns:
            return self._over("turns", f"the model has answered {self._turns} times, and was not done")
        if self._input_tokens + characters // CHARACTERS_OF_A_TOKEN > limits.input_tokens:
            return self._over("tokens", f"the next request would go over {limits.input_tokens} input tokens")
        if not self.output_tokens_left:
            return self._over("tokens", f"all {limits.output_tokens} output tokens are used")
        return None

    def check_tools(self, asked: Sequence[str]) -> Failure | None:
        """Why these requests for tools may not be carried out. `count` has counted them."""
        self._asked.update(asked)
        if self._tool_calls > self._limits.tool_calls:
            return self._over("tool_calls", f"the model has asked for {self._tool_calls} tool calls")
        often = [each for each in asked if self._asked[each] > self._limits.identical_requests]
        if often:
            tool = often[0].partition(" ")[0]
            return self._over("identical_requests", f"the model asked {tool} for the same thing again and again")
        return None

    def _over(self, what: str, text: str) -> Failure:
        used = f"{self._turns} turns, {self._input_tokens} tokens read, {self._output_tokens} written"
        return Failure(code=f"bound.{what}", text=f"{text} ({used})")

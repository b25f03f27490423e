"""Tools that read what a step may read: in parts, and what is left out is always said."""

import itertools
from collections.abc import Iterator
from typing import Any

from pydantic import Field

from contracts.errors import NotFound
from workers.llm.tools.answers import Answer, Refusal, Success, ToolCode
from workers.llm.tools.sources import NotText, Source, find_text
from workers.llm.tools.tool import Arguments, Desk, Tool

_LISTED = 100
_MATCHES = 20
_PASSED_OVER = 20


class ListSources(Arguments):
    skip: int = Field(default=0, ge=0, description="How many of the list to leave out.")


class ReadSource(Arguments):
    source: str = Field(min_length=1, max_length=300, description="A name from list_sources.")
    offset: int = Field(default=0, ge=0, description="The character to begin with.")
    length: int = Field(default=6000, ge=1, le=12_000, description="How many characters at most.")


class SearchSources(Arguments):
    text: str = Field(min_length=2, max_length=200, description="What to look for, literally, in any case.")
    source: str | None = Field(default=None, max_length=300, description="Only in this source; null for all.")
    skip: int = Field(default=0, ge=0, le=100_000, description="How many matches to leave out.")


def _list_sources(desk: Desk, arguments: ListSources) -> Answer:
    sources = desk.sources.all
    listed = sources[arguments.skip : arguments.skip + _LISTED]
    while True:
        after = arguments.skip + len(listed)
        more = f"there are {len(sources)} in all: call again with skip={after}" if after < len(sources) else None
        answer = Success({"sources": [_shown(source) for source in listed]}, more, untrusted=True)
        if answer.fits() or len(listed) < 2:
            return answer
        listed = listed[: len(listed) // 2]


def _shown(source: Source) -> dict[str, Any]:
    return {
        "source": source.name,
        "origin": source.origin,
        "size_bytes": source.size_bytes,
        "media_type": source.media_type,
    }


def _read_source(desk: Desk, arguments: ReadSource) -> Answer:
    source = desk.sources.find(arguments.source)
    try:
        text = desk.sources.text(source)
    except NotText as error:
        return Refusal(ToolCode.NOT_TEXT, f"{source.name} cannot be read: {error}", retryable=False)
    if arguments.offset >= len(text) > 0:
        said = f"offset {arguments.offset} is past the end: {source.name} has {len(text)} characters"
        return Refusal(ToolCode.ARGUMENTS, said, retryable=True)
    part = text[arguments.offset : arguments.offset + arguments.length]
    while True:
        end = arguments.offset + len(part)
        more = f"{len(text) - end} characters follow: call again with offset={end}" if end < len(text) else None
        data = {"source": source.name, "offset": arguments.offset, "characters": len(text), "text": part}
        answer = Success(data, more, untrusted=True)
        if answer.fits():
            return answer
        part = part[: len(part) // 2]


def _search_sources(desk: Desk, arguments: SearchSources) -> Answer:
    searched = [desk.sources.find(arguments.source)] if arguments.source else desk.sources.all
    passed_over: dict[str, str] = {}

    def texts() -> Iterator[tuple[str, str]]:
        for source in searched:
            try:
                yield source.name, desk.sources.text(source)
            except (NotText, NotFound) as error:
                passed_over[source.name] = str(error)

    hits = (hit for name, text in texts() for hit in find_text(name, text, arguments.text))
    found = list(itertools.islice(hits, arguments.skip, arguments.skip + _MATCHES + 1))
    shown = found[:_MATCHES]
    while True:
        left = len(found) > len(shown)
        more = f"there are more matches: call again with skip={arguments.skip + len(shown)}" if left else None
        data = {"matches": [vars(hit) for hit in shown], "not_searched": _first(passed_over)}
        answer = Success(data, more, untrusted=True)
        if answer.fits() or not shown:
            return answer
        shown = shown[: len(shown) // 2]


def _first(passed_over: dict[str, str]) -> dict[str, str]:
    first = dict(itertools.islice(passed_over.items(), _PASSED_OVER))
    rest = len(passed_over) - len(first)
    return {**first, "and": f"{rest} more"} if rest else first


LIST_SOURCES = Tool(
    "list_sources",
    "Lists what this step may read: its input and the whole task's, the accepted outputs of the steps before it, and "
    "the artifacts that these refer to, each with its size.",
    ListSources,
    _list_sources,
)
SEARCH_SOURCES = Tool(
    "search_sources",
    "Finds a text in what this step may read; gives source, offset, line and the words around each match.",
    SearchSources,
    _search_sources,
)
READ_SOURCE = Tool(
    "read_source",
    "Reads a part of one source as text. A long one is read in parts: `more` says where the next begins.",
    ReadSource,
    _read_source,
)

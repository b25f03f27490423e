"""What travels between the steps of a survey. Every claim about a file is a `Fact`, `FileFact` or `Problem`."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from contracts import ArtifactRef
from workers.gates.facts import Fact, FileFact, Problem, SpelledPath


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Wish(Shape):
    """What a caller asks for: the folder to survey, and how many files of it at most."""

    path: str = Field(min_length=1, max_length=4096)
    files_limit: int = Field(default=100_000, ge=1, le=1_000_000)


class Group(Shape):
    """What one step reads. `prefix` is the dotted name of the package that the root lies in, part by part."""

    root: str
    prefix: tuple[str, ...] = ()
    files: list[SpelledPath]
    facts_limit: int = Field(default=2000, ge=1)


class Name(Fact):
    """A public name of a module: where it is bound first."""

    name: str
    kind: Literal["function", "class", "value", "import"]


class Import(Fact):
    """One imported module, as written: `level` dots, then `module`; `names` are what `from` takes out of it."""

    module: str
    names: list[str]
    level: int


class Function(Fact):
    """A function or method, by its dotted name in the module. `last_line` is its last, inclusive."""

    name: str
    last_line: int
    length_lines: int


class Mark(Fact):
    mark: Literal["TODO", "FIXME", "XXX"]


class Mention(Fact):
    """A word in a file that names a module of the tree (`target`) without importing it."""

    word: str
    target: SpelledPath


class Reading(FileFact):
    """One file as read. `omitted` counts the facts, by kind, that did not fit the step's limit."""

    doc: Fact | None = None
    entry: Fact | None = None
    """The line that makes it a program: `if __name__ == "__main__"` or `#!`."""
    names: list[Name] = Field(default_factory=list)
    imports: list[Import] = Field(default_factory=list)
    functions: list[Function] = Field(default_factory=list)
    function_count: int = 0
    marks: list[Mark] = Field(default_factory=list)
    mentions: list[Mention] = Field(default_factory=list)
    omitted: dict[str, int] = Field(default_factory=dict)


class Read(Shape):
    """Output of one reading step: every file of its group is in `files`, in `problems`, or (`syntax`) in both."""

    files: list[Reading]
    problems: list[Problem]


class Skipped(Shape):
    """A folder that was not entered."""

    folder: SpelledPath
    reason: str


class Listing(Shape):
    """What the planner found: the files of each reading step, by its id, and the folders left out."""

    groups: dict[str, list[SpelledPath]]
    skipped: list[Skipped]
    left_out: int = 0
    """Files beyond the caller's limit."""


class Joint(Shape):
    """What the joining step is given beside the readings."""

    root: str
    prefix: tuple[str, ...] = ()
    listing: ArtifactRef


class Edge(Fact):
    """A module that imports another: the line of the file `path` that does it, and the file `target`."""

    target: SpelledPath


class Unused(Shape):
    """A module that no other file imports or names, and that does not look like a program, a test or a package."""

    path: SpelledPath
    module: str
    size_bytes: int
    line_count: int | None = None


class Summary(Shape):
    root: str
    file_count: int
    module_count: int
    package_count: int
    line_count: int
    size_bytes: int
    edge_count: int
    public_name_count: int
    function_count: int
    mark_count: int
    unused_count: int
    problem_count: int
    lost_count: int
    largest: list[FileFact]
    longest: list[Function]
    unused: list[Unused]
    problems: list[Problem]


class Survey(Shape):
    """Output of the whole task: the figures, and the report as artifacts by file name."""

    summary: Summary
    files: dict[str, ArtifactRef]

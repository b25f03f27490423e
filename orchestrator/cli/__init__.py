"""The command `orchestrator`: every command by name, imported only when it is the one that was asked for.

Exit codes: 0 ok, 1 the thing failed, 2 bad use, 3 the service cannot be reached, 130 interrupted.
"""

import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib.metadata import version

from cyclopts import App, CycloptsError

from contracts.errors import InvalidInput, OrchestratorError, Unavailable

FAILED, BAD_USE, UNREACHABLE, INTERRUPTED = 1, 2, 3, 130

_COMMANDS: Mapping[str, tuple[str, str]] = {
    "dev": ("serve:dev", "Run everything on this machine: servers, API, loops, workers. Ctrl-C stops it all."),
    "demo": ("demo:demo", "Survey a directory of source code with everything embedded, and show the report."),
    "submit": ("tasks:submit", "Submit a task to a team."),
    "tasks": ("tasks:list_tasks", "List tasks, newest first."),
    "status": ("tasks:status", "Show one task."),
    "watch": ("watch:watch", "Follow a task until it ends."),
    "result": ("tasks:result", "Print a task's result, or write it and its artifacts to a directory."),
    "cancel": ("tasks:cancel", "Cancel a task."),
    "fork": ("tasks:fork", "Start a task that keeps what another has done before a step, and does the rest again."),
    "events": ("tasks:list_events", "List what has happened to a task."),
    "steps": ("tasks:list_steps", "List a task's steps, parents first."),
    "step": ("tasks:show_step", "Show one step: attempts, verdicts, events."),
    "dead-letters list": ("dead_letters:list_dead_letters", "List what was given up on."),
    "dead-letters counts": ("dead_letters:counts", "Count them by reason, with what to do about each."),
    "dead-letters codes": ("dead_letters:codes", "List every reason code: what it means, what to do."),
    "dead-letters show": ("dead_letters:show", "Show one: message, attempts, input, what it holds up."),
    "dead-letters edit": ("dead_letters:edit", "Give a dead step another input."),
    "dead-letters redrive": ("dead_letters:redrive", "Put dead steps back to work: by id, or all that fit."),
    "dead-letters discard": ("dead_letters:discard", "Close a dead letter for good."),
    "dead-letters note": ("dead_letters:note", "Add a note to a dead letter."),
    "dead-letters export": ("dead_letters:export", "Write all that fit, with everything about them, as JSON lines."),
    "questions list": ("people:list_questions", "List what steps ask of people."),
    "questions answer": ("people:answer", "Answer a question; its step goes on."),
    "pause": ("steering:pause", "Pause a task, a team or an agent: nothing new of it begins."),
    "resume": ("steering:resume", "Resume what was paused."),
    "pauses": ("steering:list_pauses", "List what is paused: by whom, why, since when."),
    "limits": ("steering:list_limits", "List agents whose steps run only so often at once."),
    "top": ("top:top", "Watch queues, workers, oldest work, dead letters, pauses and limits, live."),
    "drain": ("steering:drain", "Have one worker finish what it holds, and end."),
    "workers list": ("installation:list_workers", "List worker processes."),
    "queues": ("installation:list_queues", "List queues and what is on them."),
    "scale": ("scale:scale", "Set how many worker processes a running dev server has: ROLE=N."),
    "teams list": ("installation:list_teams", "List the teams that tasks can name."),
    "teams show": ("installation:show_team", "Show one team: NAME, or NAME@DIGEST."),
    "teams apply": ("teams:apply", "Read a directory of teams, check them, and make them the current ones."),
    "teams copy": ("teams:copy", "Copy a built-in team's file and prompts into a folder, to change them there."),
    "api": ("serve:api", "Serve the HTTP API."),
    "worker": ("serve:worker", "Run one worker process; for all roles unless some are named."),
    "loops": ("serve:loops", "Run the background loops: relay, sweeper, stager, pruner."),
    "flower": ("flower:flower", "Run Flower: behind a password, for looking only."),
    "migrate": ("database:migrate", "Bring the database's schema to this version's."),
    "check": ("database:check", "Say whether settings, database, broker and teams are right."),
    "restored": ("database:restored", "Make a database current that comes out of a backup."),
    "verify": ("database:verify", "Check the invariants; prints violations, exits 1 if there are any."),
    "keys create": ("keys:create", "Make an API key; it is shown once. Works directly on the database."),
    "keys list": ("keys:list_keys", "List the API keys of a tenant."),
    "keys revoke": ("keys:revoke", "Revoke an API key by name or prefix."),
}
_GROUPS: Mapping[str, str] = {
    "dead-letters": "What was given up on: list, counts, codes, show, edit, redrive, discard, note, export.",
    "questions": "What steps ask of people: list, answer.",
    "workers": "Worker processes.",
    "teams": "Teams: list, show, apply, copy.",
    "keys": "API keys: create, list, revoke.",
}
_WITHOUT_A_VERB: Mapping[str, str] = {"workers": "list"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. Whatever goes wrong, a person reads one line, not a traceback."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = bool(os.environ.pop("ORCHESTRATOR_DEBUG", ""))
    if "--debug" in given:
        given.remove("--debug")
        debug = True
    try:
        code = make_app()(_completed(given), exit_on_error=False, print_error=True, result_action="return_value")
        sys.stdout.flush()
    except CycloptsError:
        return BAD_USE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left (`| head`): nothing to tell, and nobody to tell it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OrchestratorError as error:
        field = getattr(error, "field", "")
        text = f"{field}: {error.text}" if field and not error.text.startswith(field) else error.text
        return _complain(text, _code_of(error), debug)
    except Exception as error:  # the edge: nobody gets a traceback who did not ask for one
        text = f"unexpected {type(error).__name__}: {error} (run it again with --debug for all of it)"
        return _complain(text, FAILED, debug)
    return code if isinstance(code, int) else 0


def make_app() -> App:
    app = App(
        name="orchestrator",
        help="A durable, gated orchestrator for AI agents. `--debug` shows tracebacks.",
        help_format="plaintext",
        version=version("agent-orchestrator"),
    )
    groups = {name: App(name=name, help=text) for name, text in _GROUPS.items()}
    for group in groups.values():
        app.command(group)
    for words, (place, text) in _COMMANDS.items():
        group_name, _, verb = words.rpartition(" ")
        target = groups[group_name] if group_name else app
        target.command(f"orchestrator.cli.{place}", name=verb, help=text)
    return app


def _completed(given: list[str]) -> list[str]:
    """Refuses a command that does not exist; `workers` alone means `workers list`. Raises `InvalidInput`."""
    _require_known(given)
    verb = _WITHOUT_A_VERB.get(given[0]) if given else None
    if verb is not None and (len(given) == 1 or (given[1].startswith("--") and given[1] != "--help")):
        return [given[0], verb, *given[1:]]
    return given


def _require_known(given: list[str]) -> None:
    """Here, because the parser would import every command to say what is near."""
    words = [word for word in given[:2] if not word.startswith("-")]
    if not words:
        return
    near = [name for name in (*_COMMANDS, *_GROUPS) if " " not in name]
    if words[0] in _GROUPS and len(words) > 1:
        near, words = [name for name in _COMMANDS if name.startswith(f"{words[0]} ")], [" ".join(words)]
    if words[0] in near:
        return
    close = get_close_matches(words[0], near, n=1, cutoff=0.5)
    remedy = f"did you mean {close[0]!r}?" if close else "`orchestrator --help` lists them"
    raise InvalidInput(f"there is no command {words[0]!r}; {remedy}")


def _code_of(error: OrchestratorError) -> int:
    if isinstance(error, Unavailable):
        return UNREACHABLE
    return BAD_USE if isinstance(error, InvalidInput) else FAILED


def _complain(text: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    printable = "".join(char if char.isprintable() or char == "\n" else "?" for char in text)
    sys.stderr.write(f"orchestrator: {printable}\n")
    return code

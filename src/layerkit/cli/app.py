"""The commands. Heavy imports stay inside them: ``layerkit --help`` must come at once."""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import json
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, TypeVar, cast

import click

from .._version import __version__
from ..errors import BuildError, ConfigurationError, LayerkitError, LocalResourceError, printable
from . import completion

if TYPE_CHECKING:
    from ..project import Project

__all__ = [
    "Terminated",
    "cli",
    "error_document",
    "folder_option",
    "json_errors",
    "leaving",
    "load_project",
    "main",
    "project_options",
]

F = TypeVar("F", bound=Callable[..., Any])


class Terminated(BaseException):
    """SIGTERM or SIGHUP, as an exception: what is under way is ended by the same blocks as with Ctrl-C."""


class _Unread(Exception):
    """Nobody reads standard output any more."""


class _Unheard:
    """Standard error whose reader, or room, may go: what is said goes nowhere from then on, and the work goes on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            _to_nowhere(self._stream)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            _to_nowhere(self._stream)


def _to_nowhere(stream: TextIO) -> None:
    """What is left in *stream* would be tried again at the end, and be an error."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with the status that the contract names."""
    # What imports make stays: looking through it for garbage again and again is a seventh of a short run.
    gc.set_threshold(100_000)
    _open_streams()
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        signal.signal(signal.SIGTERM, _on_term)
        # The docker commands are in groups of their own and hear nothing of a terminal that closes. nohup stays one.
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
            signal.signal(signal.SIGHUP, _on_term)
        # Without standalone mode click returns the status of --help, --version and Exit.
        status = cli.main(given, "layerkit", standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        status = error.exit_code
        if "--json" in itertools.takewhile(lambda word: word != "--", given):
            with contextlib.suppress(OSError):  # it is said on standard error already
                _print_error(_usage(error))
    except (KeyboardInterrupt, click.Abort) as error:
        print(f"interrupted{_left(error.__cause__ or error)}", file=sys.stderr)
        status = 130
    except Terminated as error:
        print(f"terminated{_left(error)}", file=sys.stderr)
        status = 143
    except LayerkitError as error:
        _show(error)
        status = error.exit_status
    except _Unread:
        status = 0
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        status = _no_room(error, error.filename or "standard output, or a file of this machine")
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            status = status or _no_room(error, "standard output")
        _to_nowhere(sys.stdout)  # nobody reads any more, which undoes nothing
    gc.freeze()  # nor is it looked through at the end
    sys.exit(status)


def _open_streams() -> None:
    """What was closed leads nowhere: the next file or socket to be opened would be taken for standard output."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+" if number == 0 else "w", encoding="utf-8"))  # noqa: SIM115
    sys.stderr = cast(TextIO, _Unheard(sys.stderr))


def _no_room(error: OSError, what: str) -> int:
    """Say that the result could not be written; the exit status."""
    print(f"error: {printable(what)}: cannot be written: {error.strerror}", file=sys.stderr)
    return LocalResourceError.exit_status


def _usage(error: click.ClickException) -> LayerkitError:
    """What click says of an argument, as an error of ours."""
    context = getattr(error, "ctx", None)
    hint = f"{context.command_path} --help" if context is not None else ""
    return ConfigurationError(error.format_message(), hint=hint)


def _on_term(number: int, frame: object) -> None:
    raise Terminated


def _show(error: LayerkitError) -> None:
    from ..settings import Actions
    from ..workflow import harmless
    from .github import annotate

    actions = Actions.from_environment()
    lines = [f"error: {printable(error.message)}"]
    if isinstance(error, ConfigurationError):
        lines += [f"  {printable(str(problem))}" for problem in error.problems if str(problem) != error.message]
    if isinstance(error, BuildError):
        lines += [f"  | {line}" for line in error.log]
    if error.hint:
        lines.append(f"hint: {printable(error.hint)}")
    text = "\n".join(lines)
    print("\n".join(map(harmless, text.split("\n"))) if actions else text, file=sys.stderr)
    if actions:
        annotate(actions, error)


@contextlib.contextmanager
def leaving(state: str) -> Iterator[None]:
    """Who is interrupted in the block is told in which *state* things were left."""
    try:
        yield
    except (KeyboardInterrupt, Terminated) as error:
        error.args = (state,)
        raise


def _left(error: BaseException) -> str:
    """As ``leaving`` has it; "" outside of it."""
    return f": {error.args[0]}" if error.args else ""


@contextlib.contextmanager
def json_errors(wanted: bool) -> Iterator[None]:
    """With ``--json`` a failure is an object on standard output too."""
    try:
        yield
    except LayerkitError as error:
        if wanted:
            _print_error(error)
        raise


def _print_error(error: LayerkitError) -> None:
    print(json.dumps({"schema_version": 1, **error_document(error)}, indent=2))


def error_document(error: LayerkitError) -> dict[str, Any]:
    """What ``--json`` says of a failure; of a configuration each problem too, as its message only counts them."""
    document: dict[str, Any] = {
        "kind": error.kind,
        "message": error.message,
        "hint": error.hint,
        "exit_status": error.exit_status,
    }
    if isinstance(error, ConfigurationError) and error.problems:
        document["problems"] = [str(problem) for problem in error.problems]
    return {"error": document}


def folder_option(said: str) -> Callable[[F], F]:
    """``-C DIR``, and what ``--help`` says of it."""
    kind = click.Path(exists=True, file_okay=False, path_type=Path)
    return click.option("-C", "folder", type=kind, default=Path(), metavar="DIR", help=said)


def project_options(command: F) -> F:
    """``-C``, ``-f`` and ``--set``: what ``load_project`` takes."""
    for option in (
        click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="KEY=VALUE",
            help="Override, as image.base=REF.",
            shell_complete=completion.keys,
        ),
        folder_option("Project folder (default: this one)."),
        click.option(
            "-f",
            "--file",
            "file",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Project file (default: layerkit.toml, or [tool.layerkit] in pyproject.toml).",
        ),
    ):
        command = option(command)
    return command


def load_project(folder: Path, file: Path | None, overrides: Sequence[str]) -> Project:
    """The project that ``project_options`` name. Raises ConfigurationError."""
    from ..project import load

    return load(file, root=folder if file is None or folder != Path() else None, overrides=overrides)


# The commands: name -> what --help says of it. Their modules are imported when they are called.
_LATER = {
    "bake": "Print the bake definition of the whole image.",
    "build": "Build the image, and put it to its destination.",
    "check": "Check the project without building it.",
    "checkpoint": "Look at a checkpoint: inspect, digest, convert.",
    "diff": "Say what differs between two images, in bytes.",
    "dockerfile": "Print the Dockerfile that BuildKit is given.",
    "doctor": "Try what a build needs: docker, the builder, the registry.",
    "inspect": "Say what an image is made of, by role, and what a change costs.",
    "init": "Look at the project, and write a commented layerkit.toml.",
    "lint": "Say what an expert would of a Dockerfile of a PyTorch service.",
    "makefile": "Print the path of layerkit.mk, for a Makefile.",
    "plan": "Say what build would do and why, in bytes. Changes nothing.",
    "prune": "Delete runtime and checkpoint images of the registry that nothing uses.",
    "run": "Run the image with its weights, or print how Compose or Kubernetes do.",
    "schema": "Print the JSON schema of layerkit.toml, for editors.",
    "verify": "Say whether an image's weights are the approved ones.",
}
# Where a command is not in the module of its name.
_HOME = {
    "bake": "export",
    "diff": "inspect",
    "dockerfile": "export",
    "makefile": "export",
    "plan": "build",
    "schema": "export",
}


def _is_unread(stream: TextIO) -> bool:
    """Whether it is a pipe whose reader has gone."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return bool(poll.poll(0))
    except (OSError, ValueError):
        return False


class _Commands(click.Group):
    """The commands of this module and those of _LATER."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # click ends with 1 and no word, which would be of a build that failed.
            if _is_unread(sys.stdout):
                raise _Unread from None
            raise

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_LATER])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _LATER:
            return super().get_command(ctx, cmd_name)
        from importlib import import_module

        home = _HOME.get(cmd_name, cmd_name)
        found: click.Command = getattr(import_module(f".{home}", __package__), cmd_name)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            near = get_close_matches(args[0], self.list_commands(ctx), 1)
            if not near:
                raise
            raise click.UsageError(f"{error.message} Did you mean {near[0]!r}?", error.ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, command.get_short_help_str(70)) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(sorted([*rows, *_LATER.items()]))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="layerkit")
def cli() -> None:
    """Build PyTorch inference images whose checkpoint is a layer of its own.

    Only what changed moves: new weights never pass through the builder, new code never reads the weights.
    Results are on standard output, progress on standard error.
    """


@cli.command("completion", short_help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def print_completion(shell: str) -> None:
    """Print the completion script of a shell: eval "$(layerkit completion bash)"."""
    print(completion.script(shell, cli), end="")

"""The commands. Heavy imports stay inside them: ``layerkit --help`` must come at once."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from .._version import __version__
from ..errors import BuildError, ConfigurationError, LayerkitError, printable
from . import completion

if TYPE_CHECKING:
    from ..project import Project

__all__ = ["Terminated", "cli", "error_document", "json_errors", "load_project", "main", "project_options"]

F = TypeVar("F", bound=Callable[..., Any])


class Terminated(BaseException):
    """SIGTERM, as an exception: what is under way is ended by the same blocks as with Ctrl-C."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with the status that the contract names."""
    try:
        signal.signal(signal.SIGTERM, _on_term)
        # Without standalone mode click returns the status of --help, --version and Exit.
        status = cli.main(list(arguments) if arguments is not None else None, "layerkit", standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        print("interrupted: no tag was moved; what arrived is used by the next run", file=sys.stderr)
        status = 130
    except Terminated:
        print("terminated: no tag was moved; what arrived is used by the next run", file=sys.stderr)
        status = 143
    except LayerkitError as error:
        _show(error)
        status = error.exit_status
    except BrokenPipeError:
        status = 0
    with contextlib.suppress(BrokenPipeError, ValueError):
        sys.stdout.flush()
    sys.exit(status)


def _on_term(number: int, frame: object) -> None:
    raise Terminated


def _show(error: LayerkitError) -> None:
    from ..settings import Actions
    from .github import annotate, harmless

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
def json_errors(wanted: bool) -> Iterator[None]:
    """With ``--json`` a failure is an object on standard output too."""
    try:
        yield
    except LayerkitError as error:
        if wanted:
            print(json.dumps({"schema_version": 1, **error_document(error)}, indent=2))
        raise


def error_document(error: LayerkitError) -> dict[str, Any]:
    """What ``--json`` says of a failure."""
    return {
        "error": {
            "kind": type(error).__name__,
            "message": error.message,
            "hint": error.hint,
            "exit_status": error.exit_status,
        }
    }


def project_options(command: F) -> F:
    for option in (
        click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="KEY=VALUE",
            help="Override, as image.base=REF.",
            shell_complete=completion.keys,
        ),
        click.option(
            "-C",
            "folder",
            type=click.Path(exists=True, file_okay=False, path_type=Path),
            default=Path(),
            metavar="DIR",
            help="Project folder (default: this one).",
        ),
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


def _destination_options(command: F) -> F:
    for option in (
        click.option(
            "--builder", default="", metavar="NAME", help="buildx builder.", shell_complete=completion.builders
        ),
        click.option("--no-cache", is_flag=True, help="Build base, dependencies and code anew."),
        click.option(
            "--platform",
            "platforms",
            multiple=True,
            metavar="OS/ARCH",
            help="Platforms, also with commas.",
            shell_complete=completion.platforms,
        ),
        click.option(
            "--output",
            default="",
            metavar="oci:DIR",
            help="Put the image into an OCI layout.",
            shell_complete=completion.outputs,
        ),
        click.option("--load", is_flag=True, help="Put the image into the local Docker (the default)."),
        click.option("--push", is_flag=True, help="Put the image into its registry."),
        click.option(
            "-t", "--tag", "tags", multiple=True, metavar="TAG", help="v2, or REPO:v2 (default: latest); repeatable."
        ),
    ):
        command = option(command)
    return command


def load_project(folder: Path, file: Path | None, overrides: Sequence[str]) -> Project:
    from ..project import load

    return load(file, root=folder if file is None or folder != Path() else None, overrides=overrides)


def _destination(push: bool, load: bool, output: str, platforms: Sequence[str]) -> dict[str, Any]:
    if push + load + bool(output) > 1:
        raise click.UsageError("--push, --load and --output exclude each other")
    return {
        "push": push,
        "output": output,
        "platforms": [part for text in platforms for part in text.split(",") if part],
    }


# Commands that live in modules of their own: name -> what --help says of it. Imported when they are called.
_LATER = {
    "checkpoint": "Look at a checkpoint: inspect, digest, convert.",
    "diff": "Say what differs between two images, and what a node moves for it.",
    "doctor": "Try what a build needs: docker, the builder, the registry.",
    "inspect": "Say what an image is made of, by role, and what a change costs.",
    "init": "Look at the project, and write a commented layerkit.toml.",
    "lint": "Say what an expert would of a Dockerfile of a PyTorch service.",
    "prune": "Delete runtime and checkpoint images of the registry that nothing uses.",
    "run": "Run the image with its weights, or print how Compose or Kubernetes do.",
    "verify": "Say whether an image's weights are the approved ones.",
}
_HOME = {"diff": "inspect"}  # where a command is not in the module of its name


class _Commands(click.Group):
    """The commands of this module and those of _LATER."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_LATER])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _LATER:
            return super().get_command(ctx, cmd_name)
        from importlib import import_module

        home = _HOME.get(cmd_name, cmd_name)
        found: click.Command = getattr(import_module(f".{home}", __package__), cmd_name)
        return found

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


@cli.command()
@_destination_options
@project_options
@click.option("--pull", is_flag=True, help="Have the builder ask for newer base images.")
@click.option("--strict-cache", is_flag=True, help="Fail when the build cache cannot be exported.")
@click.option(
    "--layer-jobs",
    type=click.IntRange(1, 32),
    metavar="N",
    help="Checkpoint layers that are sent to the registry at a time (default: 4).",
)
@click.option(
    "--way",
    type=click.Choice(["compose", "buildkit"]),
    default="compose",
    show_default=True,
    help="buildkit: BuildKit copies the checkpoint too.",
)
@click.option(
    "--progress",
    type=click.Choice(["auto", "tty", "plain", "rawjson", "quiet", "none"]),
    envvar="BUILDKIT_PROGRESS",
    default="auto",
    show_default=True,
    help="Kind of progress display.",
)
@click.option("-q", "--quiet", is_flag=True, help="Nothing but the result.")
@click.option("--explain", is_flag=True, help="Say what will be done and why, and hold what happened against it.")
@click.option("--metadata-file", type=click.Path(path_type=Path), metavar="FILE", help="Write the --json object there.")
@click.option("--json", "as_json", is_flag=True, help="Print one object with every layer, byte and second.")
def build(
    tags: tuple[str, ...],
    push: bool,
    load: bool,
    output: str,
    platforms: tuple[str, ...],
    builder: str,
    no_cache: bool,
    folder: Path,
    file: Path | None,
    overrides: tuple[str, ...],
    pull: bool,
    strict_cache: bool,
    layer_jobs: int | None,
    way: Any,
    progress: str,
    quiet: bool,
    explain: bool,
    metadata_file: Path | None,
    as_json: bool,
) -> None:
    """Build the image, and put it to its destination.

    Prints the image's reference by digest.
    """
    from ..forecast import outcomes
    from ..pipeline import build as run
    from ..settings import Actions
    from .display import display
    from .tables import print_outcomes, print_plan, print_result

    with json_errors(as_json):
        where = _destination(push, load, output, platforms)
        project = load_project(folder, file, overrides)
        kind = "quiet" if quiet else progress
        actions = Actions.from_environment()
        kind = "github" if actions and kind == "auto" else kind
        with display(kind, terminal=sys.stderr.isatty()) as listener:
            result = run(
                project,
                tags=tags,
                builder=builder,
                no_cache=no_cache,
                pull=pull,
                strict_cache=strict_cache,
                way=way,
                layer_jobs=layer_jobs or 0,
                listener=listener,
                planned=(lambda plan: print_plan(plan, sys.stderr)) if explain else None,
                **where,
            )
        content = result.to_json()
        if explain and result.plan:
            content["plan"] = result.plan.to_json()
            content["outcomes"] = [outcome.to_json() for outcome in outcomes(result.plan, result)]
        document = json.dumps(content, indent=2)
        if metadata_file is not None:
            try:
                metadata_file.write_text(document + "\n")
            except OSError as error:
                raise ConfigurationError(f"--metadata-file: {metadata_file}: {error.strerror}") from None
        if actions:
            from .github import result_done

            result_done(actions, result)
        if as_json:
            print(document)
        else:
            if kind != "quiet":
                print_result(result)
            if explain and result.plan:
                print_outcomes(result.plan, result)
            print(result.reference)


@cli.command()
@_destination_options
@project_options
@click.option("--exit-code", is_flag=True, help="Exit with 10 when something would change.")
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
def plan(
    tags: tuple[str, ...],
    push: bool,
    load: bool,
    output: str,
    platforms: tuple[str, ...],
    builder: str,
    no_cache: bool,
    folder: Path,
    file: Path | None,
    overrides: tuple[str, ...],
    exit_code: bool,
    as_json: bool,
) -> None:
    """Say what build would do with the same options, and why. Changes nothing."""
    from ..pipeline import plan as look
    from ..settings import Actions
    from .display import notes
    from .tables import print_plan

    with json_errors(as_json):
        where = _destination(push, load, output, platforms)
        project = load_project(folder, file, overrides)
        found = look(project, tags=tags, builder=builder, no_cache=no_cache, listener=notes, **where)
        if as_json:
            print(json.dumps(found.to_json(), indent=2))
        else:
            print_plan(found)
        if actions := Actions.from_environment():
            from .github import plan_done

            plan_done(actions, found)
        if exit_code and found.changes:
            raise click.exceptions.Exit(10)


@cli.command()
@project_options
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
def check(folder: Path, file: Path | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check the project without building: its file, its code, its checkpoint, its Dockerfile."""
    from ..checkpoint.hub import Hub
    from ..fingerprint import Base, fingerprint
    from ..settings import Settings
    from ..state import State

    with json_errors(as_json):
        project = load_project(folder, file, overrides)
        settings = Settings.from_environment()
        with State(settings.state_folder) as state:
            inputs = fingerprint(
                project,
                state,
                platforms=tuple(project.image.platforms) or (settings.platform,),
                resolve=lambda reference: Base(),
                hub=Hub(settings.environment),
            )
        files = inputs.checkpoint.files if inputs.checkpoint else ()
        if as_json:
            document = {
                "schema_version": 1,
                "image": project.image.name,
                "context_files": len(inputs.files),
                "context_bytes": sum(f.size for f in inputs.files),
                "checkpoint_files": len(files),
                "checkpoint_bytes": sum(f.size for f in files),
            }
            print(json.dumps(document, indent=2))
        else:
            from .text import size

            print(f"image        {project.image.name}")
            print(f"to builder   {len(inputs.files)} files, {size(sum(f.size for f in inputs.files))}")
            if inputs.checkpoint is not None:
                total = size(sum(f.size for f in files))
                print(f"checkpoint   {len(files)} file{'s'[: len(files) != 1]}, {total} → {inputs.checkpoint.location}")
            print("ok")


@cli.command()
@project_options
@click.option(
    "-o",
    "--write",
    "target",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write it there, and FILE.dockerignore beside it.",
)
def dockerfile(folder: Path, file: Path | None, overrides: tuple[str, ...], target: Path | None) -> None:
    """Print the Dockerfile that BuildKit is given.

    The same image without layerkit: layerkit dockerfile -o Dockerfile, then
    docker buildx build --build-context checkpoint=DIR [--build-context wheels=DIR] .
    """
    from ..bases import remembered_user
    from ..runtime import find_includes, generate, ignore_file, read_requirements
    from ..settings import Settings
    from ..state import State

    project = load_project(folder, file, overrides)
    if project.image.dockerfile:
        path = project.root / project.image.dockerfile
        try:
            text = ignore = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"image.dockerfile: {path}: {error}") from None
    else:
        requirements = read_requirements(project)
        rules = project.root / ".dockerignore"
        with State(Settings.from_environment().state_folder) as state:
            user = remembered_user(state, project.image.base)
        text = generate(project, requirements, includes=find_includes(project), base_user=user)
        ignore = ignore_file(project, requirements, dockerignore=rules.read_text() if rules.is_file() else "")
    if target is None:
        sys.stdout.write(text)
    elif project.image.dockerfile:
        raise click.UsageError("--write is for a generated Dockerfile, not for image.dockerfile")
    else:
        try:
            target.write_text(text, encoding="utf-8")
            target.with_name(target.name + ".dockerignore").write_text(ignore, encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(f"--write: {error.filename}: {error.strerror}") from None
        print(target)


@cli.command()
@project_options
@click.option("-t", "--tag", "tags", multiple=True, metavar="TAG", help="As with build.")
def bake(folder: Path, file: Path | None, overrides: tuple[str, ...], tags: tuple[str, ...]) -> None:
    """Print the bake definition of the whole image, for: docker buildx bake -f -"""
    from ..pipeline import bake_definition

    project = load_project(folder, file, overrides)
    definition = bake_definition(project, tags=tags)
    context = definition["target"]["image"].get("contexts", {}).get("checkpoint")
    if context and project.checkpoint and not (project.root / project.checkpoint.path).is_dir():
        print(f"note: the checkpoint's context is {context}: bake copies all that is in that folder", file=sys.stderr)
    print(json.dumps(definition, indent=2))


@cli.command()
@click.option("-o", "--write", "target", type=click.Path(path_type=Path), metavar="FILE", help="Write it there.")
def schema(target: Path | None) -> None:
    """Print the JSON schema of layerkit.toml, for editors: #:schema FILE in its first line."""
    from ..project import schema as make

    text = json.dumps(make(), indent=2)
    if target is None:
        print(text)
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"--write: {target}: {error.strerror}") from None
    print(target)


@cli.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def print_completion(shell: str) -> None:
    """Print the completion script of a shell: eval "$(layerkit completion bash)"."""
    print(completion.script(shell, cli), end="")


@cli.command()
def makefile() -> None:
    """Print the path of layerkit.mk, for a Makefile: include $(shell layerkit makefile)."""
    print(Path(__file__).parent.parent / "layerkit.mk")

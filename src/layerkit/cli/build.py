"""``layerkit build``, and ``plan``, which says what it would do."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from ..errors import ConfigurationError, printable
from . import completion
from .app import json_errors, leaving, load_project, project_options

__all__ = ["build", "plan"]

F = TypeVar("F", bound=Callable[..., Any])


def _destination_options(command: F) -> F:
    for option in (
        click.option(
            "--builder", default="", metavar="NAME", help="buildx builder.", shell_complete=completion.builders
        ),
        click.option("--no-cache", is_flag=True, help="Build base, dependencies and code anew."),
        click.option(
            "--locked",
            is_flag=True,
            help="Take the base that layerkit.lock names; fail before anything is sent where the lock would change.",
        ),
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


def _destination(push: bool, load: bool, output: str, platforms: Sequence[str]) -> dict[str, Any]:
    if push + load + bool(output) > 1:
        raise click.UsageError("--push, --load and --output exclude each other")
    return {
        "push": push,
        "output": output,
        "platforms": [part for text in platforms for part in text.split(",") if part],
    }


def _no_metadata(file: Path, why: str) -> ConfigurationError:
    return ConfigurationError(f"--metadata-file: {printable(str(file))}: {why}")


@click.command()
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
    locked: bool,
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
        if metadata_file is not None and not metadata_file.absolute().parent.is_dir():
            raise _no_metadata(metadata_file, "its folder is not there")
        project = load_project(folder, file, overrides)
        kind = "quiet" if quiet else progress
        actions = Actions.from_environment()
        kind = "github" if actions and kind == "auto" else kind
        with (
            leaving("no tag was moved; what arrived is used by the next run"),
            display(kind, terminal=sys.stderr.isatty()) as listener,
        ):
            result = run(
                project,
                tags=tags,
                builder=builder,
                no_cache=no_cache,
                locked=locked,
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
        if actions:
            from .github import result_done

            result_done(actions, result)
        with contextlib.suppress(BrokenPipeError):  # the image is there, whether or not anybody reads of it
            if as_json:
                print(document)
            else:
                if kind not in ("quiet", "rawjson"):  # standard error is read by a program there
                    print_result(result)
                if explain and result.plan:
                    print_outcomes(result.plan, result)
                print(result.reference)
    # The image is there, and said to be: what is told of the file comes after that.
    if metadata_file is not None:
        try:
            metadata_file.write_text(document + "\n")
        except OSError as error:
            raise _no_metadata(metadata_file, f"{error.strerror}; the image is built") from None


@click.command()
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
    locked: bool,
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
        found = look(project, tags=tags, builder=builder, no_cache=no_cache, locked=locked, listener=notes, **where)
        if as_json:
            print(json.dumps(found.to_json(), indent=2))
        else:
            print_plan(found)
        if actions := Actions.from_environment():
            from .github import plan_done

            plan_done(actions, found)
        if exit_code and found.changes:
            raise click.exceptions.Exit(10)

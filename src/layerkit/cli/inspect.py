"""``layerkit inspect`` and ``layerkit diff``: what images are made of."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ..errors import LocalResourceError, printable
from .app import json_errors

__all__ = ["diff", "inspect"]

F = TypeVar("F", bound=Callable[..., Any])


def _options(command: F) -> F:
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one object, with whole digests."),
        click.option(
            "--html",
            "page",
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="FILE",
            help="Write a page that needs no network.",
        ),
        click.option("--digests", is_flag=True, help="Whole digests in the text."),
        click.option("--base", default="", metavar="REF", help="The image that it was built FROM, to tell its layers."),
        click.option(
            "--platform", default="", metavar="OS/ARCH", help="Which image of an index (default: this machine's)."
        ),
    ):
        command = option(command)
    return command


_WHERE = """IMAGE is docker:REF (the local Docker), registry:REF, or oci:DIR[:TAG]. Without a prefix it is looked for in
    the local Docker, then in its registry, as docker run does."""


@click.command(
    help=f"""Say what an image is made of: its layers by role, its checkpoint, what a change costs a node.

    {_WHERE}

    Any image will do. Of one that layerkit did not build, roles are guessed from its history, and marked with "?".
    Nothing is downloaded but manifests and a few ranges of layers.
    """
)
@click.argument("image", metavar="IMAGE")
@_options
@click.option(
    "--timeline",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="What build --metadata-file wrote, for the page (default: what this machine remembers).",
)
def inspect(
    image: str, platform: str, base: str, digests: bool, page: Path | None, as_json: bool, timeline: Path | None
) -> None:
    from ..anatomy import inspect as look
    from ..anatomy import inspection_page
    from .display import notes
    from .portrait import inspection_lines

    with json_errors(as_json):
        found = look(image, platform=platform, base=base, timeline=timeline, listener=notes)
        if page is not None:
            _write(page, inspection_page(found))
        _show(as_json, page, found.to_json, lambda: inspection_lines(found, _look(digests)))


@click.command(
    help=f"""Say what differs between two images, and what a node that has the first one moves for the second.

    {_WHERE.replace("IMAGE is", "Each is")}
    """
)
@click.argument("before", metavar="IMAGE")
@click.argument("after", metavar="IMAGE")
@_options
@click.option("--exit-code", is_flag=True, help="Exit with 10 when a layer or a setting differs.")
def diff(
    before: str, after: str, platform: str, base: str, digests: bool, page: Path | None, as_json: bool, exit_code: bool
) -> None:
    from ..anatomy import diff as look
    from ..anatomy import difference_page
    from .display import notes
    from .portrait import difference_lines

    with json_errors(as_json):
        found = look(before, after, platform=platform, base=base, listener=notes)
        if page is not None:
            _write(page, difference_page(found))
        _show(as_json, page, found.to_json, lambda: difference_lines(found, _look(digests)))
        if exit_code and not found.same:
            raise click.exceptions.Exit(10)


def _look(digests: bool) -> Any:
    from ..settings import Settings
    from .portrait import Look

    colour = sys.stdout.isatty() and not Settings.from_environment().environment.get("NO_COLOR")
    width = max(shutil.get_terminal_size((80, 24)).columns, 60)
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    return Look(min(width, 160), colour, unicode, digests)


def _show(as_json: bool, page: Path | None, document: Callable[[], Any], lines: Callable[[], list[str]]) -> None:
    if as_json:
        print(json.dumps(document(), indent=2))
    elif page is not None:
        print(printable(str(page)))
    else:
        text = "\n".join(lines())
        print(text.encode(sys.stdout.encoding or "utf-8", "backslashreplace").decode(sys.stdout.encoding or "utf-8"))


def _write(page: Path, text: str) -> None:
    try:
        page.write_text(text, encoding="utf-8")
    except OSError as error:
        raise LocalResourceError(f"--html: {page}: {error.strerror}") from None

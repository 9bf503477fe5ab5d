"""``layerkit verify``: whether an image's weights are the approved ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import printable
from .app import json_errors
from .text import many, size

if TYPE_CHECKING:
    from ..verification import Mismatch, Verification, VerifiedImage

__all__ = ["verify"]

_SHOWN = 12  # mismatches of an image in the text; --json has all
_WAYS = {
    "image": "the image's own digest is the approved one",
    "layers": "the digests of its layers",
    "files": "the sha256 of its files",
    "tensors": "tensors",
    "labels": "what the image says of itself",
}


@click.command()
@click.argument("image", metavar="IMAGE")
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="The approved checkpoint: a file or folder on this machine.",
)
@click.option(
    "--weights", default="", metavar="DIGEST", help="The approved weights hash, as checkpoint digest prints it."
)
@click.option(
    "--digest",
    default="",
    metavar="DIGEST",
    help="The approved digest: of the image, its checkpoint layer, a checkpoint-KEY image, or the files.",
)
@click.option("--platform", default="", metavar="OS/ARCH", help="Only this image of an index (default: all).")
@click.option("--skip-above", is_flag=True, help="Do not look for files of upper layers that hide the checkpoint's.")
@click.option("--json", "as_json", is_flag=True, help="Print one object, with whole digests.")
def verify(
    image: str, checkpoint: Path | None, weights: str, digest: str, platform: str, skip_above: bool, as_json: bool
) -> None:
    """Say whether an image's weights are the approved ones, and exit with 8 when they are not.

    IMAGE is docker:REF (the local Docker), registry:REF, or oci:DIR[:TAG]. Without a prefix it is looked for in
    the local Docker, then in its registry, as docker run does. Any image will do, not only those of layerkit.

    With none of --checkpoint, --weights and --digest, the image is held against its own digests and labels.
    Only layers that hold weights are read, and those over them, which could hide their files; none where
    digests decide.
    """
    from ..verification import verify as look
    from .display import notes

    with json_errors(as_json):
        found = look(
            image,
            checkpoint=checkpoint,
            weights=weights,
            digest=digest,
            platform=platform,
            above=not skip_above,
            listener=notes,
        )
        print(json.dumps(found.to_json(), indent=2) if as_json else "\n".join(_lines(found)))
        if not found.holds:
            raise click.exceptions.Exit(8)


def _lines(found: Verification) -> list[str]:
    lines = [_verdict(found)]
    for image in found.images:
        lines += _image(found, image)
    return lines


def _verdict(found: Verification) -> str:
    if found.against == "labels":
        good, bad = "the image is what it says of itself", "the image is not what it says of itself"
    else:
        good, bad = "the weights are the approved ones", "the weights are not the approved ones"
    return f"holds: {good}" if found.holds else f"does not hold: {bad}"


def _image(found: Verification, image: VerifiedImage) -> list[str]:
    from ..anatomy.found import SOURCES

    read = image.read
    parts = [f"{size(read.checkpoint)} of the checkpoint ({image.layers_read} of {many(len(image.layers), 'layer')})"]
    parts += [f"{size(read.above)} of layers above"] if read.above else []
    parts += [f"{size(read.looks)} to look into layers"] if read.looks else []
    by = f"{many(image.tensors, 'tensor')}" if image.way == "tensors" and image.tensors else _WAYS[image.way]
    rows = [
        ("image", f"{printable(found.reference)} ({printable(image.platform)})"),
        ("from", SOURCES[found.source]),
        ("digest", str(image.digest) if image.digest else ""),
        ("weights", str(image.weights) if image.weights else ""),
        ("files", str(image.checkpoint) if image.checkpoint else ""),
        ("by", by),
        ("read", ", ".join(parts) + (f"; {size(found.local)} of files here" if found.local else "")),
    ]
    lines = [f"  {name:<8} {text}" for name, text in rows if text]
    lines += [f"  note: {printable(note, 300)}" for note in image.notes]
    if image.mismatches:
        ours = "it should be" if found.against == "labels" else "approved"
        lines += [f"  differs ({ours}: -, in the image: +):"]
    shown = image.mismatches if len(image.mismatches) <= _SHOWN + 1 else image.mismatches[:_SHOWN]
    for item in shown:
        lines += _mismatch(item)
    if len(shown) < len(image.mismatches):
        lines += [f"  … and {len(image.mismatches) - len(shown)} more (--json has all)"]
    return lines


def _mismatch(item: Mismatch) -> list[str]:
    lines = [f"  {item.kind} {printable(item.name, 200)}"]
    if item.kind == "hidden":
        return [*lines, f"    {printable(item.found)}"]
    for mark, text in (("-", item.approved), ("+", item.found)):
        # A tensor's dtype and shape do not fit beside its digest in 80 columns.
        shown = printable(text, 300).replace(" sha256:", f"\n    {mark}   sha256:") if text else "not there"
        lines += f"    {mark} {shown}".splitlines()
    return lines

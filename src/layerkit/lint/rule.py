"""What all rules share: how one is described, and how lines are written. Pure."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from .facts import Facts, words
from .finding import Edit, Finding, Severity
from .reading import Copy, Document, Step
from .shell import Command, install

__all__ = [
    "Check",
    "Rule",
    "earlier",
    "found",
    "known_base",
    "linkable",
    "only_installs",
    "redact",
    "rooted",
    "write_copy",
]

Check = Callable[[Document, Facts], Iterator[Finding]]

_LINKS = re.compile(r"(?:app|model|models|weights|checkpoint|checkpoints|service|code|workspace|opt|srv)")
# Images whose folders of these names do not exist, or belong to root with mode 0755.
_PLAIN_BASES = words("python debian ubuntu cuda pytorch alpine miniconda3 micromamba miniforge3 uv scratch")
_CACHES = ("/var/lib/apt/lists", "/var/cache/apt", "/root/.cache")


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule: its name, how much it matters at most, what it says in one line, and what looks for it."""

    name: str
    severity: Severity
    summary: str
    check: Check


def found(
    rule: str,
    severity: Severity,
    document: Document,
    line: int,
    message: str,
    fix: str = "",
    count: int | None = None,
    edits: Iterable[Edit] = (),
    unsafe: str = "",
) -> Finding:
    """A finding in *document*, with credentials taken out of what is shown."""
    made = () if unsafe else tuple(edits)
    return Finding(
        rule, severity, document.file, line, redact(message), redact(fix.replace("\r", "")), count, made, unsafe
    )


def redact(text: str) -> str:
    """*text* without user names, passwords and queries in its URLs."""
    return re.sub(r"(://[^\s?\"']{0,2000})\?[^\s\"']+", r"\1?…", re.sub(r"://[^\s/@\"']{1,500}@", "://…@", text))


def write_copy(flags: Iterable[tuple[str, str]], sources: Iterable[str], target: str, name: str = "COPY") -> str:
    """A COPY line."""
    words = [f"--{flag}={value}" if value else f"--{flag}" for flag, value in flags]
    paths = [*sources, target]
    spaced = any(re.search(r"\s", path) for path in paths)
    return " ".join([name, *words, *([json.dumps(paths, ensure_ascii=False)] if spaced else paths)])


def rooted(step: Step) -> bool:
    """Whether what the COPY makes belongs to root."""
    return step.instruction.flag("chown") in (None, "0", "0:0", "root", "root:root", "0:root", "root:0")


def linkable(document: Document, step: Step, target: str | None, at: Step | None = None) -> str:
    """Why ``--link`` could change more than the cache, with the COPY *step* standing where *at* does; "" where not.

    A linked layer brings its folders along, as root and 0755: what was made otherwise below would be changed.
    """
    if all(other is not step for other in document.chain):
        return "it is in a stage that the image is not made on"
    if target is None:
        return "its target is not known here"
    if not rooted(step) or step.instruction.flag("chmod"):
        return "with --link its folders would get another owner or mode"
    top = target.strip("/").split("/")[0]
    if not _LINKS.fullmatch(top):
        return f"the base image may have its own /{top}, which --link would replace by one of root"
    if not known_base(document):
        return f"what {document.root or 'the base image'} has in /{top} is not known here"
    copies = {id(copy.step): copy for copy in document.copies}
    for other in document.chain:
        if other is (at or step):
            break
        made = other.name == "RUN" and not only_installs(other)
        if made and re.search(
            rf"(?<![\w.-])/?{re.escape(top)}\b|\b(?:chown|chmod|ln|mkdir|install|mv|umask)\b", other.script
        ):
            return f"line {other.first} may have made /{top} with another owner or mode"
        if other.name in ("COPY", "ADD") and _makes_folders(copies.get(id(other)), other, top):
            return f"line {other.first} may have made folders in /{top} with another owner or mode"
    return ""


def _makes_folders(copy: Copy | None, step: Step, top: str) -> bool:
    """Whether a COPY may leave folders below /*top* that are not root's with mode 0755."""
    if copy is None or copy.target is None:
        return True
    if copy.target != "/" and copy.target.strip("/").split("/")[0] != top:
        return False
    if not rooted(step) or step.instruction.flag("chmod"):
        return True
    if step.instruction.flag("from") == "checkpoint" or (copy.named and len(copy.named) == len(copy.sources)):
        return False
    # Folders come with the modes that they have in the context; files alone get plain ones.
    inside = {copy.target, posixpath.dirname(copy.target)}
    return not copy.files or any(posixpath.dirname(where) not in inside for where, _ in copy.files)


def known_base(document: Document) -> bool:
    """Whether the base is one of those whose folders and tools are known."""
    return posixpath.basename(document.root.split("@")[0]).split(":")[0] in _PLAIN_BASES


def only_installs(step: Step) -> bool:
    """Whether a RUN does nothing but install packages by name, which no file of the project can change."""
    unquoted = re.sub(r"\"[^\"]*\"|'[^']*'", "", step.script)
    if step.name != "RUN" or step.heredoc or not step.commands or re.search(r"[`<>]|\$\(|(?<!\|)\|(?!\|)", unquoted):
        return False
    settings = {name: value for name, value in step.variables.items() if name.startswith(("PIP_", "UV_"))}
    if any(value.startswith((".", "/", "$")) or name.endswith("CONFIG_FILE") for name, value in settings.items()):
        return False  # it may read files of the project
    return all(_harmless(command) for command in step.commands)


def _harmless(command: Command) -> bool:
    name, words = command.words[0], command.words[1:]
    if name in ("apt-get", "apt") and any(word in ("update", "clean", "upgrade", "autoremove") for word in words):
        return True
    if name == "rm":
        return all(word.startswith(("-", *_CACHES)) and ".." not in word for word in words)
    if name in ("useradd", "groupadd", "addgroup"):
        return not {"-m", "--create-home"} & set(words)
    made = install(command)
    return made is not None and not made.local and made.tool in ("pip", "uv", "apt")


def earlier(copies: Iterable[Copy], step: Step, document: Document) -> list[Copy]:
    """Those of *copies* that stand before *step* in the chain."""
    order = {id(other): at for at, other in enumerate(document.chain)}
    return [copy for copy in copies if order.get(id(copy.step), 1 << 60) < order.get(id(step), -1)]

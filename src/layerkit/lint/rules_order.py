"""Rules on the order of lines: the checkpoint above the dependencies, and under the code. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from ..units import size
from .facts import Facts, words
from .finding import Edit, Finding, Severity
from .reading import Copy, Document, Step
from .rule import Rule, found, linkable, only_installs, rooted, write_copy

__all__ = ["HARMLESS", "RULES", "order", "steps_between"]

W = Severity.WARNING
# What neither reads nor changes the files that are there.
HARMLESS = words("COPY ADD ENV LABEL EXPOSE CMD ENTRYPOINT STOPSIGNAL HEALTHCHECK MAINTAINER ARG")


def steps_between(document: Document, low: Step, high: Step) -> list[Step]:
    """The steps of the built stage that stand between the two."""
    at = {id(step): index for index, step in enumerate(document.chain)}
    return list(document.chain[at[id(low)] + 1 : at[id(high)]])


def order(document: Document, facts: Facts) -> Iterator[Finding]:
    """The checkpoint under the dependencies, or above the code."""
    at = {id(step): index for index, step in enumerate(document.chain)}
    installs = [step for step in document.chain if step.installs]
    codes = [copy for copy in document.copies if copy.role in ("code", "mixed")]
    for copy in document.copies:
        if copy.role != "checkpoint":
            continue
        here = at[id(copy.step)]
        above = [step for step in installs if at[id(step)] > here]
        below = [other for other in codes if at[id(other.step)] < here]
        known = f" ({size(copy.bytes)})" if copy.bytes else ""
        if above:
            lines, edits, unsafe = _moved(document, copy, after=above[-1])
            if any(here < at[id(other.step)] < at[id(above[-1])] for other in codes):
                unsafe = "the packages are installed above the code: they must go first"
            message = (
                f"{copy.what()} is copied under the dependencies (line {above[0].first}): "
                "new weights install every package again"
            )
            yield found(
                "checkpoint-under-dependencies", W, document, copy.step.first, message, lines, None, edits, unsafe
            )
        elif below:
            lines, edits, unsafe = _moved(document, copy, before=below[0])
            message = (
                f"{copy.what()}{known} is copied above the code (line {below[0].step.first}): "
                "each code change makes the builder copy it and every node unpack it again"
            )
            yield found(
                "checkpoint-above-code", W, document, copy.step.first, message, lines, copy.bytes, edits, unsafe
            )


def _moved(
    document: Document, copy: Copy, *, before: Copy | None = None, after: Step | None = None
) -> tuple[str, list[Edit], str]:
    """(the corrected lines, the edits that move the line, why they are not provably the same)."""
    step, instruction = copy.step, copy.step.instruction
    other = before.step if before is not None else after
    assert other is not None
    link = linkable(document, step, copy.target, other if before is not None else None)
    flags = list(instruction.flags)
    if not link and instruction.flag("link") is None and instruction.flag("from") in (None, "checkpoint"):
        flags.insert(0, ("link", ""))
    target = instruction.words[-1]
    if copy.target is not None and not target.startswith("/") and "$" not in target:
        directory = target.endswith(("/", "/.")) or target in (".", "..") or len(copy.sources) > 1
        target = copy.target.rstrip("/") + ("/" if directory else "") or "/"
    line = write_copy(flags, instruction.words[:-1], target)
    text = f"{line}\n{other.raw[0]}" if before is not None else f"{other.raw[-1].rstrip()}\n{line}"
    if before is not None:
        edits = [Edit(other.first, other.first - 1, (line,)), Edit(step.first, step.last, ())]
        between = [other, *steps_between(document, other, step)]
    else:
        edits = [Edit(step.first, step.last, ()), Edit(other.last + 1, other.last, (line,))]
        between = [*steps_between(document, step, other), other]
    return text, edits, _unsafe_move(document, copy, between)


def _unsafe_move(document: Document, copy: Copy, between: list[Step]) -> str:
    step = copy.step
    if not step.plain or step.name != "COPY":
        return "the line has quotes, wildcards or continuations"
    if any(other.stage != step.stage for other in between):
        return "the lines are in different stages"
    if any("$" in word for word in (*step.instruction.words, *(value for _, value in step.instruction.flags))):
        return "it has variables, which may have another value there"
    if copy.target is None:
        return "its target is relative to a folder that is not known here"
    if {name for name, _ in step.instruction.flags} - {"link", "chown", "chmod", "from"}:
        return "it has flags that are not moved"
    if step.instruction.flag("from") not in (None, "checkpoint"):
        return "it is copied from another stage"
    if (not rooted(step) or step.instruction.flag("chmod")) and not _folders_stay(document, copy, between):
        return "a folder above it would get another owner, for no WORKDIR has made it before"
    if not copy.files and step.instruction.flag("from") is None:
        return "its files are not in the context as it is here"
    own = {where for where, _ in copy.files}
    owners = [name for name in (step.instruction.flag("chown") or "").split(":") if name and not name.isdigit()]
    owners = [name for name in owners if name != "root"]
    files = {id(c.step): c for c in document.copies}
    for other in between:
        if other.name in ("COPY", "ADD"):
            put = files.get(id(other))
            if put is None or put.target is None or other.heredoc:
                return f"what line {other.first} copies is not known here"
            if other.instruction.flag("from") is not None:
                if _near(put.target, copy.target):
                    return f"line {other.first} may copy the same file"
            elif not put.files and _near(put.target, copy.target):
                return f"what line {other.first} copies is not known here"
            elif own & {where for where, _ in put.files}:
                return f"line {other.first} copies the same file"
            if not (rooted(other) and not other.instruction.flag("chmod")) and _near(put.target, copy.target):
                return f"line {other.first} makes folders with another owner or mode"
        elif other.name == "RUN":
            if not only_installs(other) or any(name in other.script for name in owners):
                return f"line {other.first} may read or change what is there"
        elif other.name not in HARMLESS | {"WORKDIR", "USER"}:
            return f"{other.name} in line {other.first} stands between"
    return ""


def _folders_stay(document: Document, copy: Copy, between: list[Step]) -> bool:
    """Whether the folders that a COPY with an owner or mode makes are the same ones before and after the others.

    A folder that is made on the way gets the owner of the line that makes it.
    """
    assert copy.target is not None
    steps = {id(step) for step in between}
    puts = [where for other in document.copies if id(other.step) in steps for where, _ in other.files]
    first = min(between[0].first, copy.step.first)
    for folder in {step.workdir for step in document.chain if step.workdir and step.first <= first} - {"/"}:
        if copy.target == folder:
            return all(where not in ("", folder) for where, _ in copy.files)
        if copy.target.startswith(folder + "/"):
            below = posixpath.join(folder, copy.target[len(folder) + 1 :].split("/")[0])
            return not any(where == below or where.startswith(below + "/") for where in puts)
    return False


def _near(one: str, other: str) -> bool:
    a, b = one.rstrip("/") + "/", other.rstrip("/") + "/"
    return a.startswith(b) or b.startswith(a)


RULES = (
    Rule("checkpoint-under-dependencies", W, "The checkpoint lies under the dependencies", order),
    Rule("checkpoint-above-code", W, "The checkpoint lies above the code", order),
)

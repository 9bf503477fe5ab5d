"""Rules on the checkpoint: where it is copied, in which order, and what becomes of it. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence

from ..units import size
from .facts import Entry, Facts, is_checkpoint_name, is_pickle, limit_of, limits_below
from .finding import Edit, Finding, Severity
from .reading import Copy, Document, Step
from .rule import Rule, earlier, found, linkable, only_installs, redact, write_copy
from .rules_order import HARMLESS, order, steps_between

__all__ = ["RULES"]

E, W, I = Severity.ERROR, Severity.WARNING, Severity.INFO  # noqa: E741
_PLAIN_NAME = re.compile(r"[A-Za-z0-9@%+=:,./_-]+")
_MAX_NAMED = 8


def in_copy(document: Document, facts: Facts) -> Iterator[Finding]:
    """Weights among the code of one COPY."""
    for copy in (*document.copies, *document.elsewhere):
        if copy.role != "mixed":
            continue
        lines, unsafe = split(document, facts, copy)
        if copy in document.elsewhere:
            unsafe = unsafe or "it is in a stage that the image is not made on"
        message = (
            f"the checkpoint ({copy.what()}, {size(copy.bytes or 0)}) is caught by a COPY of code: "
            "each code change sends, stores and pushes it again"
        )
        edits = [Edit(copy.step.first, copy.step.last, tuple(lines))]
        fix = "\n".join(lines) or "COPY --link CHECKPOINT DIR/\nCOPY --exclude=CHECKPOINT " + " ".join(
            copy.step.instruction.words
        )
        yield found("checkpoint-in-copy", W, document, copy.step.first, message, fix, copy.bytes, edits, unsafe)


def split(document: Document, facts: Facts, copy: Copy) -> tuple[list[str], str]:
    """(the lines that copy weights and the rest apart, why this is not provably the same)."""
    step, instruction = copy.step, copy.step.instruction
    if not copy.weights:
        return [], "the weights are not in the context as it is here"
    names = {name for name, _ in instruction.flags}
    groups: dict[str, list[Entry]] = {}
    for _, entry in copy.weights:
        groups.setdefault(posixpath.dirname(entry.path), []).append(entry)
    target = instruction.words[-1]
    link = linkable(document, step, copy.target)
    keep = [(n, v) for n, v in instruction.flags if n in ("chown", "chmod")]
    flags = [*([] if link else [("link", "")]), *keep]
    lines, excluded = [], []
    for folder, entries in groups.items():
        patterns = _patterns(folder, entries, facts)
        lines.append(write_copy(flags, patterns, posixpath.join(target, folder).rstrip("/") + "/"))
        excluded += patterns
    rest = [*instruction.flags, *(("exclude", pattern) for pattern in excluded)]
    lines.append(write_copy(rest, instruction.words[:-1], target))
    unsafe = ""
    if step.name != "COPY" or not copy.whole or len(copy.sources) != 1:
        unsafe = "only a COPY of the whole context is split"
    elif not step.plain or len(instruction.words) != 2:
        unsafe = "the line has quotes, wildcards or continuations"
    elif names - {"chown", "chmod", "link", "exclude"}:
        unsafe = f"the line has --{min(names - {'chown', 'chmod', 'link', 'exclude'})}"
    elif not all(_PLAIN_NAME.fullmatch(entry.path) for _, entry in copy.weights):
        unsafe = "a file has characters in its name that COPY takes for a pattern"
    elif any(entry.link for _, entry in copy.weights):
        unsafe = "a symbolic link would be copied as the file that it points to"
    elif (version := _old_syntax(document)) is not None:
        unsafe = f"# syntax={version} is older than COPY --exclude (1.19)"
    elif not facts.known:
        unsafe = "the build context could not be read as a whole"
    return lines, unsafe


def _patterns(folder: str, entries: Sequence[Entry], facts: Facts) -> list[str]:
    """The files by name, or by one pattern that matches exactly them."""
    suffixes = {posixpath.splitext(entry.path)[1] for entry in entries}
    if len(entries) > 1 and len(suffixes) == 1:
        pattern = posixpath.join(folder, "*" + suffixes.pop())
        matched = {entry.path for _, entry in facts.select(pattern) if not entry.ignored}
        if matched == {entry.path for entry in entries} and _PLAIN_NAME.fullmatch(folder or "x"):
            return [pattern]
    return [entry.path for entry in entries]


def _old_syntax(document: Document) -> str | None:
    """The ``# syntax=`` that the file has, where it is one without COPY --exclude."""
    for line in document.lines:
        directive = re.fullmatch(r"#\s{0,9}(\w{1,20})\s{0,9}=\s{0,9}(\S{1,500})", line.strip()[:600])
        if directive is None:
            return None
        if directive[1].lower() == "syntax":
            version = re.fullmatch(r"(?:docker\.io/)?docker/dockerfile:(\d+)(?:\.(\d+))?(?:\.\d+)?", directive[2])
            if version and int(version[1]) == 1 and (version[2] is None or int(version[2]) >= 19):
                return None
            return redact(directive[2])
    return None


def copied_twice(document: Document, facts: Facts) -> Iterator[Finding]:
    """The same file in two layers."""
    seen: dict[str, list[tuple[Copy, str]]] = {}
    for copy in document.copies:
        again: dict[int, list[tuple[Entry, Copy, str, str]]] = {}
        for where, entry in copy.files:
            if entry.size < facts.minimum:
                continue
            for before, there in seen.setdefault(entry.path, [])[-1:]:
                again.setdefault(before.step.first, []).append((entry, before, there, where))
            seen[entry.path].append((copy, where))
        for name in copy.named:
            for before, _ in seen.setdefault("?" + name, [])[-1:]:
                again.setdefault(before.step.first, []).append((Entry(name, 0), before, "", "?"))
            seen["?" + name].append((copy, ""))
        for line, pairs in again.items():
            total = sum(entry.size for entry, *_ in pairs)
            first = pairs[0]
            same = all(there and there == where for _, _, there, where in pairs)
            what = first[0].path if len(pairs) == 1 else f"{first[0].path} and {len(pairs) - 1} more"
            where = "to the same place" if same else "to another place"
            message = f"{what} is copied again {where} (before: line {line}): the image holds it twice, in two layers"
            unsafe = _unsafe_drop(document, copy, first[1], same, len(pairs))
            fix = f"# delete this line: line {line} has copied it" if same else "# keep one of the two lines"
            edits = [Edit(copy.step.first, copy.step.last, ())]
            yield found("copied-twice", W, document, copy.step.first, message, fix, total or None, edits, unsafe)


def _unsafe_drop(document: Document, copy: Copy, before: Copy, same: bool, count: int) -> str:
    if not same:
        return "both paths are in the image, and the program may read either"
    if count != len(copy.files) or copy.named:
        return "it copies other files too"
    if before.step.stage != copy.step.stage:
        return "the lines are in different stages"
    for flag in ("chown", "chmod"):
        if copy.step.instruction.flag(flag) != before.step.instruction.flag(flag):
            return f"the two lines differ in --{flag}"
    between = steps_between(document, before.step, copy.step)
    changing = [step for step in between if step.name not in HARMLESS | {"WORKDIR", "USER"} and not only_installs(step)]
    if changing:
        return f"line {changing[0].first} may change the file between the two"
    if not before.step.plain or not copy.step.plain or copy.step.name != before.step.name:
        return "a line has quotes, wildcards or continuations"
    return ""


def not_linked(document: Document, facts: Facts) -> Iterator[Finding]:
    """A checkpoint layer that depends on those under it."""
    moved = {finding.line for finding in order(document, facts) if finding.edits}  # which links it too
    for copy in document.copies:
        step = copy.step
        if step.first in moved:
            continue
        linked = step.instruction.flag("link")
        if copy.role != "checkpoint" or step.name != "COPY" or linked not in (None, "false"):
            continue
        unsafe = linkable(document, step, copy.target)
        if not unsafe and (not step.plain or linked == "false"):
            unsafe = "the line has quotes, wildcards or continuations"
        if not unsafe and step.instruction.flag("from") is not None:
            unsafe = "it is copied from another stage"
        line = write_copy(
            [("link", ""), *((n, v) for n, v in step.instruction.flags if n != "link")],
            step.instruction.words[:-1],
            step.instruction.words[-1],
        )
        message = (
            f"{copy.what()} is copied without --link: its layer is built and pushed again "
            "whenever a layer under it changes"
        )
        edits = [Edit(step.first, step.last, (line,))]
        yield found("checkpoint-not-linked", I, document, step.first, message, line, copy.bytes, edits, unsafe)


def layer_limit(document: Document, facts: Facts) -> Iterator[Finding]:
    """A checkpoint layer that a registry refuses."""
    limit = limit_of(facts.image)
    for copy in document.copies:
        count = copy.total if copy.role in ("checkpoint", "mixed") else 0
        if not count:
            continue
        largest = max((entry.size for _, entry in copy.weights), default=0)
        fix = "# one COPY --link for each file or group of files, each a layer below the limit"
        if largest > (limit[0] if limit else 10_000_000_000) or len(copy.weights) == 1:
            fix = "# save the weights in shards (save_pretrained(max_shard_size=…)), and give each group a COPY --link"
        if limit is not None and count > limit[0]:
            message = f"the layer of {copy.what()} has {size(count)}, and {limit[1]}: the push would be refused"
            yield found("layer-limit", E, document, copy.step.first, message, fix, count)
        elif limit is None and not facts.image and (refusing := limits_below(count)):
            message = f"the layer of {copy.what()} has {size(count)}: {'; '.join(refusing)}"
            yield found("layer-limit", I, document, copy.step.first, message, fix, count)


def pointer(document: Document, facts: Facts) -> Iterator[Finding]:
    """A Git LFS pointer in the place of weights."""
    for copy in document.copies:
        missing = [entry for _, entry in copy.weights if entry.pointer]
        if missing:
            message = (
                f"{missing[0].path} is a Git LFS pointer, not the weights: "
                "the image would start, and fail when it loads them"
            )
            total = sum(entry.size for entry in missing)
            yield found("lfs-pointer", E, document, copy.step.first, message, "# before the build: git lfs pull", total)


def ignored_copy(document: Document, facts: Facts) -> Iterator[Finding]:
    """A file that is named, and kept out by ``.dockerignore``."""
    for copy in (*document.copies, *document.elsewhere):
        if copy.step.instruction.flag("from") is not None:
            continue
        for source in copy.sources:
            matched = facts.select(source) if "://" not in source and posixpath.normpath("/" + source) != "/" else ()
            if matched and all(entry.ignored for _, entry in matched):
                message = f"{facts.ignore} keeps {source} from the builder: the build fails here with 'not found'"
                yield found(
                    "ignored-copy",
                    E,
                    document,
                    copy.step.first,
                    message,
                    f"# in {facts.ignore}, as last line\n!{source}",
                )


def removed_later(document: Document, facts: Facts) -> Iterator[Finding]:
    """A file that one layer adds and a later one deletes."""
    deletions = [step for step in document.chain if step.name == "RUN" and re.search(r"\brm\b", step.script)]
    for step in deletions[:100]:
        before = earlier(document.copies, step, document)
        for command in step.commands[:200]:
            if command.name != "rm":
                continue
            for word in [word for word in command.words[1:] if not word.startswith("-")][:50]:
                path = step.absolute(word)
                gone = [
                    (copy, entry)
                    for copy in before
                    for where, entry in (copy.files if path else ())
                    if where and (where == path or where.startswith(f"{path}/"))
                ]
                total = sum(entry.size for _, entry in gone)
                if path and gone and total >= facts.minimum:
                    copy, entry = gone[0]
                    message = (
                        f"{word} is deleted after the layer that brought it (line {copy.step.first}): "
                        "the image keeps its bytes"
                    )
                    fix = f"RUN --mount=type=bind,source={entry.path},target={path} …  # and no line {copy.step.first}"
                    line = step.line_of(r"\brm\b")
                    yield found("removed-later", W, document, line, message, fix, total)


def download(document: Document, facts: Facts) -> Iterator[Finding]:
    """Weights from elsewhere that nobody checks."""
    for step in document.steps():
        if step.name == "ADD" and step.instruction.flag("checksum") is None:
            for word in step.instruction.words[:-1]:
                source = step.expand(word) or word
                if _remote_weights(source):
                    message = (
                        f"ADD of {redact(source)[:200]} has no checksum: whatever the server sends becomes the model, "
                        "and the builder asks for it at each build"
                    )
                    fix = f"ADD --checksum=sha256:<digest of the file> {' '.join(step.instruction.words)}"
                    yield found("unverified-download", W, document, step.first, message, fix)
                    break
        elif step.name == "RUN":
            yield from _fetched(document, step)


def _remote_weights(source: str) -> bool:
    return re.match(r"https?://", source) is not None and is_checkpoint_name(re.split(r"[?#]", source, maxsplit=1)[0])


def _fetched(document: Document, step: Step) -> Iterator[Finding]:
    if re.search(r"\b(?:sha\d+sum|shasum|openssl dgst|b2sum|cksum)\b|checksum|hash_prefix|check_hash", step.script):
        return
    for command in step.commands:
        urls = [word for word in command.words[1:] if _remote_weights(word)]
        if command.name in ("curl", "wget", "aria2c") and urls:
            url = redact(urls[0])[:200]
            name = posixpath.basename(re.split(r"[?#]", urls[0], maxsplit=1)[0])
            message = f"{url} is downloaded with no checksum: the layer cache keeps the first answer, whatever it was"
            fix = f"ADD --checksum=sha256:<digest of the file> {url} ./{name}"
            yield found("unverified-download", W, document, step.line_of(r"\b(?:curl|wget|aria2c)\b"), message, fix)
            return
    pattern = r"\b(?:hf_hub_download|snapshot_download|from_pretrained|huggingface-cli\s+download|hf\s+download)\b"
    if re.search(pattern, step.script) and "revision" not in step.script:
        message = (
            "weights are downloaded with no revision: the layer cache keeps the first answer, "
            "and another builder gets another"
        )
        fix = '# name the commit: revision="<commit>" in Python, --revision <commit> on the command line'
        yield found("unverified-download", I, document, step.line_of(pattern.replace(r"\s+", " ")), message, fix)


def pickle_as_root(document: Document, facts: Facts) -> Iterator[Finding]:
    """A pickle that root will load."""
    user = [step for step in document.chain if step.name == "USER"]
    if user and user[-1].instruction.words and user[-1].instruction.words[0].split(":")[0] not in ("root", "0"):
        return
    for copy in document.copies:
        names: Iterable[str] = [entry.path for _, entry in copy.weights] + list(copy.named)
        pickled = [name for name in names if is_pickle(name)]
        if pickled:
            message = (
                f"{pickled[0]} is a pickle, which runs what is in it when it is loaded, and nothing says USER: "
                "that would be root"
            )
            yield found("pickle-as-root", I, document, copy.step.first, message, "USER 1000:1000")
            return


RULES = (
    Rule("checkpoint-in-copy", W, "The checkpoint is caught by a COPY of code", in_copy),
    Rule("copied-twice", W, "The same large file is copied twice", copied_twice),
    Rule("checkpoint-not-linked", I, "The checkpoint is copied without --link", not_linked),
    Rule("layer-limit", E, "A checkpoint layer is larger than a registry takes", layer_limit),
    Rule("lfs-pointer", E, "A Git LFS pointer is copied in the place of weights", pointer),
    Rule("ignored-copy", E, "A copied file is kept out by .dockerignore", ignored_copy),
    Rule("removed-later", W, "A copied file is deleted in a later layer", removed_later),
    Rule("unverified-download", W, "Weights are downloaded without a checksum", download),
    Rule("pickle-as-root", I, "Root loads a pickle", pickle_as_root),
)

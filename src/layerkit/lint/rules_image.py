"""Rules on the image as a whole: its base, its context, its secrets, its owners. Pure."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterator

from ..units import size
from .facts import MIB, Facts, words
from .finding import Edit, Finding, Severity
from .reading import Copy, Document, Step
from .rule import Rule, earlier, found, known_base, linkable, only_installs, write_copy

__all__ = ["RULES"]

E, W, I = Severity.ERROR, Severity.WARNING, Severity.INFO  # noqa: E741
_SECRET = re.compile(
    r"(?:^|_)(?:TOKEN|PASSWORD|PASSWD|PASSPHRASE|SECRET|SECRETS|APIKEY|API_KEY|ACCESS_KEY|SECRET_KEY|PRIVATE_KEY|"
    r"CREDENTIALS?|AUTH_TOKEN)(?:_ID|_VALUE|_BASE64)?$",
    re.IGNORECASE,
)
_VALUE = re.compile(
    r"hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|AKIA[A-Z0-9]{16}|"
    r"sk-[A-Za-z0-9_-]{20,}|xox[bap]-[\w-]{10,}|AIza[\w-]{30,}"
)
_WITH_PASSWORD = re.compile(r"https?://(?!\$)[^\s/@:\"']{1,200}:(?![$/])[^\s/@\"']{1,200}@")
_JUNK = words(
    ".git .hg .svn .venv venv node_modules __pycache__ .ipynb_checkpoints wandb mlruns lightning_logs .pytest_cache "
    ".mypy_cache .ruff_cache .tox .nox .cache .dvc .idea .vscode"
)
# Folders that every base image has.
_THERE = ("/", "/opt", "/srv", "/home", "/mnt", "/usr", "/usr/local", "/usr/share", "/var", "/var/lib")
_DEVEL = re.compile(r"(?P<front>[^\s]*:[^\s]*?)-?devel(?P<back>[^\s]*)", re.IGNORECASE)
_CHANGE = re.compile(
    r"(?P<tool>chown|chmod)[ \t]+(?:-R|--recursive)[ \t]+(?P<what>[\w.:$@{}-]+)[ \t]+(?P<path>[\w./$@{}-]+)"
    r"(?=[ \t]*(?:$|&&|;|\\|\r))"
)


def no_from(document: Document, facts: Facts) -> Iterator[Finding]:
    """A file that is no Dockerfile."""
    if document.problem is not None:
        line, why = document.problem
        yield found("no-base-image", E, document, line, f"this is no Dockerfile that can be built: {why}", "FROM IMAGE")


def devel_base(document: Document, facts: Facts) -> Iterator[Finding]:
    """Compilers and headers at run time."""
    if document.root_step is None or not (match := _DEVEL.fullmatch(document.root)):
        return
    step = document.root_step
    runtime = (
        f"{match['front']}-runtime{match['back']}"
        if match["front"][-1] != ":"
        else f"{match['front']}runtime{match['back']}"
    )
    name = f" AS {step.instruction.words[2]}" if len(step.instruction.words) == 3 else ""
    fix = f"FROM {document.root} AS build\n# … what needs nvcc and headers\nFROM {runtime}{name}\nCOPY --from=build …"
    message = (
        f"{document.root} is a base for building: its compilers, headers and static libraries, several GB with CUDA, "
        "are pulled by every node"
    )
    yield found(
        "devel-base", W, document, step.first, message, fix, None, (), "what is compiled at run time is not known here"
    )


def unpinned_base(document: Document, facts: Facts) -> Iterator[Finding]:
    """A base that changes under the image."""
    names = {stage.name for stage in document.stages if stage.name}
    for stage in document.stages:
        base = stage.base
        if not base or base == "scratch" or base.lower() in names or base.isdigit() or "@" in base:
            continue
        tag = base.rpartition("/")[2].partition(":")[2]
        if tag in ("", "latest"):
            message = (
                f"{base} names no version: a new base replaces every layer above it, torch's gigabytes included, "
                "on a day that nobody chose"
            )
            plain = base.removesuffix(":latest")
            yield found(
                "unpinned-base", I, document, stage.start.first, message, f"FROM {plain}:<version>@sha256:<digest>"
            )


def missing_ignore(document: Document, facts: Facts) -> Iterator[Finding]:
    """A COPY of everything with nothing kept out; or with a ``.dockerignore`` that lets the usual junk in."""
    copies = (*document.copies, *document.elsewhere)
    for copy in copies:
        if not copy.whole:
            continue
        if facts.ignore:
            yield from _junk(document, facts, copy)
            return
        total = facts.sent() if facts.entries else None
        tops: Counter[str] = Counter()
        for entry in facts.entries:
            tops[entry.path.split("/")[0]] += entry.size
        largest = ", ".join(f"{name} {size(count)}" for name, count in tops.most_common(3) if count >= MIB // 10)
        sends = f": {size(total)} would be sent" + (f" ({largest})" if largest else "") if total else ""
        message = f"everything is copied, and there is no .dockerignore{sends}"
        there = [name for name in (".git", ".venv", "venv", "wandb", "mlruns", "data") if name in tops]
        fix = "\n".join(
            ["# .dockerignore", *dict.fromkeys([".git", ".venv", *there]), "**/__pycache__", "**/*.pyc", ".env"]
        )
        unsafe = "what the program does not need is yours to say"
        yield found("missing-dockerignore", W, document, copy.step.first, message, fix, total, (), unsafe)
        return


def _junk(document: Document, facts: Facts, copy: Copy) -> Iterator[Finding]:
    found_: Counter[str] = Counter()
    for entry in facts.entries:
        parts = entry.path.split("/")
        for at, name in enumerate(parts[:-1] if not entry.ignored else ()):
            if name in _JUNK:
                found_["/".join(parts[: at + 1])] += entry.size
                break
    total = sum(found_.values())
    if total:
        names = sorted({posixpath.basename(path) for path in found_})
        message = f"{facts.ignore} lets {', '.join(names[:3])} in, {size(total)} that no server reads"
        fix = "\n".join([f"# {facts.ignore}", *(f"**/{name}" for name in names)])
        severity = W if total >= facts.minimum else I
        yield found("junk-in-context", severity, document, copy.step.first, message, fix, total)


def secrets(document: Document, facts: Facts) -> Iterator[Finding]:
    """What must stay secret, in the image's configuration or history."""
    for instruction in document.instructions:
        if instruction.name not in ("ARG", "ENV"):
            if instruction.name in ("RUN", "LABEL") and _WITH_PASSWORD.search(instruction.text[:100_000]):
                message = "a URL with a password is written here: the image's history shows it to everyone who can pull"
                fix = "RUN --mount=type=secret,id=NAME,env=NAME …  # and $NAME in the command"
                yield found("secret-in-image", E, document, instruction.line, message, fix)
            continue
        rest = instruction.text.partition(" ")[2][:100_000]
        words = re.findall(r"(?:[^\s\"']|\"[^\"]*\"|'[^']*')+", rest)
        pairs = [word.partition("=")[::2] for word in words if instruction.name == "ARG" or "=" in word]
        if instruction.name == "ENV" and words and "=" not in words[0]:
            pairs = [(words[0], " ".join(words[1:]))]
        for name, value in pairs:
            value = value.strip("\"'")
            empty = value in ("", "none") or value.isdigit()
            named = _SECRET.search(name) is not None and (instruction.name == "ARG" or not empty)
            if named or _VALUE.search(value) or _WITH_PASSWORD.search(value):
                stays = "the image's configuration" if instruction.name == "ENV" else "the image's history"
                message = (
                    f"{instruction.name} {name[:100]} puts a secret into {stays}, which everyone who can pull may read"
                )
                shown = name if re.fullmatch(r"\w{1,100}", name) else "NAME"
                fix = f"RUN --mount=type=secret,id={shown},env={shown} …  # docker buildx build --secret id={shown}"
                yield found("secret-in-image", E, document, instruction.line, message, fix)
                break


# ------------------------------------------------------------------------------------------------------- permissions


def permissions(document: Document, facts: Facts) -> Iterator[Finding]:
    """chown or chmod of a whole tree, which stores its files again."""
    for step in [
        step for step in document.chain if step.name == "RUN" and re.search(r"\bch(?:own|mod)\b", step.script)
    ][:100]:
        before = earlier(document.copies, step, document)
        for command in step.commands[:200]:
            if command.name not in ("chown", "chmod"):
                continue
            options = [word for word in command.words[1:] if word.startswith("-")]
            rest = [word for word in command.words[1:] if not word.startswith("-")]
            if (
                not any(word == "--recursive" or re.fullmatch(r"-[A-Za-z]*R[A-Za-z]*", word) for word in options)
                or len(rest) < 2
            ):
                continue
            for path in (step.absolute(word) for word in rest[1:50]):
                below = [copy for copy in before if path and _covers(path, copy)]
                total = sum(e.size for copy in below for where, e in copy.files if where and _under(where, str(path)))
                unknown = [
                    copy for copy in below if not copy.files and (copy.role in ("checkpoint", "mixed") or copy.whole)
                ]
                if total < facts.minimum and not unknown:
                    continue
                lines, edits, unsafe = _folded(document, step, below, str(path), facts)
                message = (
                    f"{command.name} -R {path} changes files of lower layers (line {below[0].step.first}): "
                    "each of them is stored again in this layer"
                )
                fix = "\n".join(lines)
                line = step.line_of(rf"\b{command.name}\b")
                yield found("recursive-permissions", W, document, line, message, fix, total or None, edits, unsafe)
                break


def _under(path: str, folder: str) -> bool:
    return folder == "/" or path == folder or path.startswith(folder + "/")


def _covers(path: str, copy: Copy) -> bool:
    return copy.target is not None and (
        _under(copy.target, path) or any(where and _under(where, path) for where, _ in copy.files)
    )


def _folded(
    document: Document, step: Step, below: list[Copy], path: str, facts: Facts
) -> tuple[list[str], list[Edit], str]:
    """(the corrected lines, the edits, why they are not provably the same).

    The COPY lines give the owner or mode; what else is below *path* is changed file by file, and only where it differs,
    so that the result is the same whatever the base image or another step has put there.
    """
    spots = [(n, line, m) for n, line in enumerate(step.raw, step.first) for m in _CHANGE.finditer(line[:4096])]
    if len(spots) != 1 or len(re.findall(r"\bch(?:own|mod)\b", step.script)) != 1:
        lines = [
            write_copy([("chown", "USER:GROUP")], copy.step.instruction.words[:-1], copy.step.instruction.words[-1])
            for copy in below[:3]
        ]
        return lines, [], "the command is not a plain one"
    number, line, match = spots[0]
    what = step.expand(match["what"])
    tool = match["tool"]
    if what is None:
        return [], [], "its owner or mode depends on what is not known here"
    if tool == "chown":
        user, colon, group = what.partition(":")
        value = f"{user or '0'}:{group or '0'}" if not colon or group else user
        tests = [f"! -user {user}"] if user else []
        tests += [f"! -group {group}"] if group else []
        test = tests[0] if len(tests) == 1 else f"\\( {' -o '.join(tests)} \\)"
        do = f"chown -h {what}"
        if colon and not group:
            return [], [], "the group is that of the user, which is not known here"
    else:
        value, test, do = what, f"! -type l ! -perm {what}", f"chmod {what}"
        if not re.fullmatch(r"0?[0-7]{3}", what):
            return [], [], "--chmod takes octal modes"
    changed = f"find {match['path']} {test} -exec {do} {{}} +"
    edits, shown = [], []
    unsafe = ""
    for copy in below:
        instruction = copy.step.instruction
        own = instruction.flag(tool)
        new = write_copy(
            [(n, v) for n, v in instruction.flags if n not in (tool, "link")] + [(tool, value)],
            instruction.words[:-1],
            instruction.words[-1],
            instruction.name,
        )
        shown.append(new)
        if own is None or own == value:
            edits += [Edit(copy.step.first, copy.step.last, (new,))] if own is None else []
        unsafe = unsafe or _unsafe_fold(document, step, copy, tool, value, path)
    if not edits and not unsafe:
        unsafe = "the COPY lines have owners or modes already"
    if step.heredoc or step.instruction.text.partition(" ")[2].lstrip().startswith("["):
        unsafe = unsafe or "the command is no plain shell line"
    if not known_base(document):
        unsafe = unsafe or "whether the base image has find is not known here"
    if step.user not in ("", "root", "0") and not unsafe:
        unsafe = "it is not root who runs it"
    edits.append(Edit(number, number, (line[: match.start()] + changed + line[match.end() :],)))
    return [*shown, edits[-1].lines[0].strip()], edits, unsafe


def _unsafe_fold(document: Document, step: Step, copy: Copy, tool: str, value: str, path: str) -> str:
    if not copy.step.plain:
        return f"line {copy.step.first} has quotes, wildcards or continuations"
    if copy.target is None or not _under(copy.target, path):
        return f"line {copy.step.first} copies to other places too"
    if copy.step.stage != step.stage:
        return f"line {copy.step.first} is in another stage"
    if copy.step.name == "ADD":
        return f"line {copy.step.first} is an ADD"
    at = {id(other): index for index, other in enumerate(document.chain)}
    names = [name for name in value.split(":") if not name.isdigit() and name != "root"] if tool == "chown" else []
    for other in document.chain[at[id(copy.step)] + 1 : at[id(step)]]:
        if other.name == "RUN" and any(name in other.script for name in names):
            return f"line {other.first} may make the user, and --chown needs it before"
        if other.name == "RUN" and not only_installs(other):
            return f"line {other.first} may read or change what is there"
        if other.name not in ("RUN", "COPY", "ENV", "ARG", "LABEL", "EXPOSE", "WORKDIR", "USER", "CMD", "ENTRYPOINT"):
            return f"{other.name} in line {other.first} stands between"
    if path == "/":
        return "it changes the whole system"
    if tool == "chown" and any(name in step.script.partition("chown")[0] for name in names):
        return "the same command makes the user, and --chown needs it before"
    # A linked layer brings the folders above along, with the owner: --link goes where it may.
    if copy.step.instruction.flag("link") is not None and linkable(document, copy.step, copy.target):
        return f"line {copy.step.first} has --link, which would change the folders above {path}"
    first = [other.workdir for other in document.chain if other.first <= copy.step.first and other.workdir]
    above = posixpath.dirname(path)
    if above not in _THERE and not any(_under(folder, above) for folder in first):
        return f"line {copy.step.first} may make {above}, which would get the owner or mode too"
    return ""


RULES = (
    Rule("no-base-image", E, "The file is no Dockerfile", no_from),
    Rule("devel-base", W, "Compilers and headers at run time", devel_base),
    Rule("unpinned-base", I, "The base image names no version", unpinned_base),
    Rule("missing-dockerignore", W, "Everything is copied, and nothing kept out", missing_ignore),
    Rule("junk-in-context", W, ".dockerignore lets the usual junk in", missing_ignore),
    Rule("secret-in-image", E, "A secret is in ARG or ENV", secrets),
    Rule("recursive-permissions", W, "chown -R or chmod -R stores files again", permissions),
)

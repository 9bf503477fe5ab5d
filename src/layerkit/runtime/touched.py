"""What a user's own Dockerfile does with the weights once they are copied. Pure.

While BuildKit builds the runtime image a placeholder lies where the weights go. A step that moves, deletes, copies or
reads them, or changes their owner, would do so to the placeholder: such an image BuildKit has to build as a whole.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase

from .instructions import Instruction
from .script import Command, commands
from .stages import Dockerfile, Stage, sources

__all__ = ["touched"]

_MAX_SCRIPT = 200_000  # characters; no step that a person wrote is longer
_FLAGS = re.compile(r"\ARUN(?:\s+--[a-z][a-z-]*(?:=\S*)?)*\s*", re.IGNORECASE)
_NAMED = re.compile(r"\$(?:(\w+)|\{(\w+)(?::?[-?=]([^}]*))?\})")
_ASSIGNED = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_REDIRECTED = re.compile(r"[0-9&]?>[>|]?(.*)", re.DOTALL)
# bash takes a{b,c} for two words, and is what SHELL or /bin/sh may be; to another sh it is a file that nobody has.
_LIST = re.compile(r"(?<!\$)\{([^{},]*(?:,[^{},]*)+)\}")
_RANGE = re.compile(r"(?<!\$)\{-?\w+\.\.-?\w+(?:\.\.-?\w+)?\}")
_MOST_BRACED, _DEEPEST = 256, 10  # words that one becomes; braces in braces
_LONGEST_BRACED = 10_000  # characters
_SHELLS = frozenset(("sh", "bash", "dash", "ash"))
_KEYWORDS = frozenset(("if", "elif", "while", "until", "!", "time"))
# Naming the weights is all the same to these: they look at a folder, make it, or only say its name.
_HARMLESS = frozenset(
    ("echo", "printf", "mkdir", "cd", "ls", "test", "[", "[[", "export", "du", "stat", "touch", "install", "useradd",
     "adduser", "usermod", "groupadd", "addgroup", ":", "true")
)  # fmt: skip
_OWNERS = frozenset(("chown", "chmod", "chgrp", "chcon", "setfacl"))
# What runs the program that stands further behind among its words.
_RUNNERS = frozenset(
    ("sudo", "doas", "su", "gosu", "su-exec", "runuser", "setpriv", "env", "nice", "ionice", "nohup", "timeout", "time",
     "xargs", "parallel", "eval", "command", "busybox")
)  # fmt: skip
_WORKERS = _OWNERS | _SHELLS | {"rm", "cp", "mv", "tar", "find", "rsync"}
# What no checkpoint is made of: a find that is after these alone leaves the weights as they are.
_LEFTOVERS = frozenset(
    ("*.pyc", "*.pyo", "*.pyd", "*.py[co]", "*.py[cod]", "__pycache__", "*__pycache__*", ".git", ".pytest_cache",
     "*.egg-info", "*.a", "*.js.map")
)  # fmt: skip
_SET_USER_ID = re.compile(r"[-/+][246]000")  # programs; no weights
_ARCHIVERS = frozenset(("7z", "7za", "7zr", "7zz", "rar"))
_ACTIONS = ("-delete", "-exec", "-execdir", "-ok", "-okdir")


def touched(dockerfile: Dockerfile, built: Stage, copy: Instruction, target: str) -> str:
    """Which step after *copy* works on the weights in the folder *target*, in a sentence; "" where none does.

    Args:
        built: the stage that is built; steps of stages that it does not need do not count.

    It goes by what the steps name: a step that finds the weights by itself (a program that is told nowhere where they
    are) is not seen.
    """
    where = target.rstrip("/")
    if not where:  # they are in the root: everything would be above them
        return ""
    holding = {
        stage.index for stage in dockerfile.stages if any(copy in below.body for below in dockerfile.chain(stage))
    }
    for stage in dockerfile.needed(built):
        after = False
        for instruction, variables, workdir in dockerfile.walk(dockerfile.chain(stage)):
            if after and instruction.name == "RUN" and _works_on(instruction, variables, workdir, where):
                return _sentence(instruction, "works on the weights")
            after = after or instruction is copy
            for name in sources(instruction):
                taken = dockerfile.find(dockerfile.expand(name, variables)[0], stage.index)
                if taken is not None and taken.index in holding and _takes(dockerfile, instruction, variables, where):
                    return _sentence(instruction, "takes the weights from another stage")
    return ""


def _sentence(instruction: Instruction, does: str) -> str:
    return f"line {instruction.line} of the Dockerfile ({instruction.text[:80]!r}) {does}"


def _takes(dockerfile: Dockerfile, instruction: Instruction, variables: Mapping[str, str], where: str) -> bool:
    """Whether what it takes from another stage holds the weights, or is of them."""
    if instruction.name == "RUN":
        return True
    paths = (posixpath.join("/", dockerfile.expand(word, variables)[0]) for word in instruction.words[:-1])
    return any(_within(path, where) or _above(path, where) for path in paths)


def _works_on(instruction: Instruction, variables: Mapping[str, str], workdir: str | None, where: str) -> bool:
    folder = workdir
    known = dict(variables)
    before: list[str] = []  # the words of the command before: an xargs gets its paths from that
    for command in _commands(instruction):
        words = [part for word in command.words for one in _braced(word) for part in _expanded(one, known)]
        while words and words[0] in _KEYWORDS:
            words = words[1:]
        for word in (*command.assigned, *(words[1:] if words[:1] == ["export"] else ())):
            if found := _ASSIGNED.fullmatch(word):
                known[found[1]] = " ".join(_expanded(found[2], known))
        if words[:1] == ["for"] and words[2:3] == ["in"]:
            known[words[1]] = " ".join(words[3:])
        if not words:
            continue
        name = posixpath.basename(words[0])
        fed = name == "xargs" and before[:1] != ["find"] and not _WORKERS.isdisjoint(map(posixpath.basename, words))
        if fed and any(_within(path, where) or _above(path, where) for path in _paths(before[1:], folder)):
            return True
        before = words
        if name == "cd":
            to = words[1] if len(words) > 1 else "/root"
            folder = to if to.startswith("/") else posixpath.join(folder, to) if folder is not None else None
        elif _command_works_on(name, words, folder, where):
            return True
    return False


def _commands(instruction: Instruction) -> Iterator[Command]:
    """The simple commands of a RUN; those in ``sh -c '…'`` too."""
    script = _FLAGS.sub("", instruction.text, count=1)
    exec_form = script.startswith("[") and instruction.words != tuple(script.split())
    found: Iterable[Command] = (
        [Command(instruction.words)]
        if exec_form
        else commands(f"{script}\n{instruction.heredoc}"[:_MAX_SCRIPT], bare=True)
    )
    for command in found:
        yield command
        if command.name in _SHELLS | _RUNNERS:
            yield from (
                inner for word in command.words[1:] if " " in word for inner in commands(word[:_MAX_SCRIPT], bare=True)
            )
        # "sudo -u me …": the script leaves out "sudo" itself.
        if command.name in _RUNNERS or command.name.startswith("-"):
            for at, word in enumerate(command.words[1:], 1):
                if posixpath.basename(word) in _WORKERS:
                    yield Command(command.words[at:])


def _braced(word: str) -> list[str]:
    """The words that bash makes of its braces; a pattern for a range, and where they are too many."""
    found = [_RANGE.sub("*", word)]
    if len(word) > _LONGEST_BRACED:
        return [_LIST.sub("*", found[0])]
    for _ in range(_DEEPEST):
        if not any(_LIST.search(one) for one in found):
            break
        lists = [(one, _LIST.search(one)) for one in found]
        more = [
            one[: at.start()] + part + one[at.end() :] if at else one
            for one, at in lists
            for part in (at[1].split(",") if at else ("",))
        ]
        found = more if len(more) <= _MOST_BRACED else [_LIST.sub("*", one) for one in found]
    return found


def _expanded(word: str, variables: Mapping[str, str]) -> list[str]:
    """The words that it is with its variables; one that nothing is known of stays."""
    if "$" not in word:
        return [word]
    return _NAMED.sub(lambda found: variables.get(found[1] or found[2], found[3] or found[0]), word).split()


def _command_works_on(name: str, words: list[str], folder: str | None, where: str) -> bool:
    if _writes_below(name, words, folder, where):
        return True
    if name in _HARMLESS or (name == "ln" and _has(words, "s", "--symbolic")):
        return False
    recursive = _has(words, "rR", "--recursive")
    paths = list(_paths(words[1:], folder))
    if name in _OWNERS and not recursive:
        paths = [path for path in paths if path != where]  # of the folder alone: the same above any weights
    elif any(re.search(rf"(?<![\w./-]){re.escape(where)}(?![\w.-])", word) for word in words):
        return True
    if any(_within(path, where) for path in paths):
        return True
    if name in _OWNERS or name == "rm":
        works = recursive
    elif name == "cp":
        works = recursive or _has(words, "a", "--archive")
        paths = _taken(words, paths)
    elif name in ("tar", "bsdtar"):
        works = _has(words, "c", "--create") or (len(words) > 1 and words[1].isalpha() and "c" in words[1])
    elif name == "find":
        works = not _finds_leftovers(words)
        start = words[1:2]
        if folder is not None and (not start or start[0].startswith(("-", "(", "!"))):
            paths.append(folder)
    elif name in ("zip", "gzip"):
        works = recursive
    elif name in _ARCHIVERS:
        works = words[1:2] in (["a"], ["u"], ["d"])
        paths += [folder] if len(words) == 3 and folder is not None else []  # an archive of all that is there
    elif name == "git":  # what is not tracked: deleted, put aside, or put into .git
        works = not {"clean", "stash", "add"}.isdisjoint(words)
        paths += [folder] if folder is not None else []
    elif name == "mksquashfs":
        works = True
    else:
        works = name in ("mv", "rsync")
        paths = paths if any(word.startswith("--del") for word in words) else _taken(words, paths)
    return works and any(_above(path, where) for path in paths)


def _writes_below(name: str, words: list[str], folder: str | None, where: str) -> bool:
    """Whether a file below *where* is made or added to: of one that is there, it would see nothing."""
    written = list(words[1:]) if name in ("touch", "install") else []
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if found := _REDIRECTED.fullmatch(word):
            written.append(found[1] or following)
    return any(path != where and _within(path, where) for path in _paths(written, folder))


def _finds_leftovers(words: list[str]) -> bool:
    """Whether a find asks for ``_LEFTOVERS`` only: every alternative does, before it acts."""
    if any(word in ("!", "-not", ",") for word in words):
        return False
    asked = False
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word in ("-o", "-or"):
            if not asked:
                return False
            asked = False
        elif word in ("-name", "-iname"):
            asked = asked or following in _LEFTOVERS
        elif word == "-perm":
            asked = asked or _SET_USER_ID.fullmatch(following) is not None
        elif word.startswith(_ACTIONS) and not asked:
            return False
    return asked


def _taken(words: list[str], paths: list[str]) -> list[str]:
    """Of the *paths* of a cp, mv or rsync those that it takes: what it puts into a folder leaves the rest alone."""
    into = words[0].endswith(("cp", "mv")) and (
        _has(words, "t", "--target-directory") or any(word.startswith("--target-directory=") for word in words)
    )
    return paths if into else paths[:-1]


def _has(words: Iterable[str], letters: str, long: str) -> bool:
    """Whether an option is given, alone or among other letters."""
    return any(
        word == long or (re.fullmatch(r"-[A-Za-z]+", word) is not None and not set(letters).isdisjoint(word[1:]))
        for word in words
    )


def _paths(words: Iterable[str], folder: str | None) -> Iterator[str]:
    """The words that may be paths, absolute."""
    for word in words:
        text = word.partition("=")[2] if word.startswith("-") else word
        if re.match(r"-[A-Za-z]/", word):  # as in tar's -C/app
            text = word[2:]
        if text.startswith("/"):
            yield posixpath.normpath("/" + text.lstrip("/"))
        elif text and folder is not None:
            yield posixpath.normpath(posixpath.join(folder, text))


def _within(path: str, where: str) -> bool:
    """Whether *path* is *where*, or below it; of a pattern that leads there: but for what no checkpoint is made of."""
    if path == where or path.startswith(where + "/"):
        return True
    parts, goal = path.strip("/").split("/"), where.strip("/").split("/")
    return (
        len(parts) > len(goal)
        and all(fnmatchcase(name, part) for part, name in zip(parts, goal, strict=False))
        and parts[-1] not in _LEFTOVERS
    )


def _above(path: str, where: str) -> bool:
    """Whether *path*, a pattern maybe, is *where* or a folder that it is in."""
    parts, goal = path.strip("/").split("/"), where.strip("/").split("/")
    if path.strip("/") == "":
        return True
    return len(parts) <= len(goal) and all(fnmatchcase(name, part) for part, name in zip(parts, goal, strict=False))

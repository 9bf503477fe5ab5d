"""A Dockerfile as rules look at it: steps with their lines, in the order in which they become layers. Pure."""

from __future__ import annotations

import json
import posixpath
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ..errors import ConfigurationError
from ..runtime import stages
from ..runtime.dockerignore import Matcher
from ..runtime.instructions import Instruction
from ..runtime.stages import Dockerfile
from .facts import Entry, Facts, is_checkpoint_name, is_requirements, words
from .shell import Command, Install, commands, install
from .tame import tame

__all__ = ["Copy", "Document", "Stage", "Step", "read"]

_IGNORE = re.compile(r"#\s{0,20}layerkit:\s{0,20}ignore=([a-z0-9, \t-]+)")
_RUN = re.compile(r"[ \t]*RUN(?:[ \t]+--[a-z][a-z-]*(?:=\S*)?)*[ \t]*", re.IGNORECASE)
_MAX_STAGES = 300
_MAX_COPIES = 500
_MAX_SCRIPT = 200_000
_MAX_WORD = 4096
_CODE_SUFFIXES = (".py", ".pyx", ".ipynb", ".js", ".ts", ".sh", ".cpp", ".cu", ".go", ".rs", ".java")
_CODE_NAMES = words("src app lib server service api code inference serve scripts backend handler package")
_CHECKPOINT_NAMES = words("checkpoint checkpoints weights ckpt ckpts")


@dataclass(frozen=True)
class Step:
    """One instruction where it stands.

    Attributes:
        instruction: as read; first, last: its lines, without comments and blank lines behind it.
        raw: these lines as written, without line ends.
        variables: ARG and ENV that are known there; workdir: absolute, or None where the base image decides.
        user: of the last USER below it, "" where the base image decides.
        stage: index of its stage.
        ignored: rules that a comment in front of it, or in it, turns off.
    """

    instruction: Instruction
    first: int
    last: int
    raw: tuple[str, ...]
    variables: Mapping[str, str]
    workdir: str | None
    user: str
    stage: int
    ignored: frozenset[str]
    _dockerfile: Dockerfile = field(repr=False, compare=False)
    _memory: dict[str, object] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def name(self) -> str:
        """Upper case."""
        return self.instruction.name

    @property
    def heredoc(self) -> bool:
        """Whether it may have one: such a step is not rewritten."""
        return "<<" in self.instruction.text

    @property
    def plain(self) -> bool:
        """One line whose words are what is written: no quotes, escapes, wildcards or heredoc. Others are not moved."""
        return len(self.raw) == 1 and not re.search(r"[\"'\\`\[\]*?]|<<", self.raw[0])

    def expand(self, word: str) -> str | None:
        """*word* with its variables; None where one is not known."""
        if len(word) > _MAX_WORD:
            return None
        if "$" not in word and not set("\"'\\`") & set(word):
            return word
        expanded, unknown = self._dockerfile.expand(word, self.variables)
        return None if unknown else expanded

    def absolute(self, path: str) -> str | None:
        """*path* with its variables, from the root; None where it depends on what is not known."""
        expanded = self.expand(path)
        if expanded is None:
            return None
        if not expanded.startswith("/"):
            if self.workdir is None:
                return None
            expanded = posixpath.join(self.workdir, expanded)
        return posixpath.normpath("/" + expanded.lstrip("/"))

    @property
    def script(self) -> str:
        """What a RUN runs: its lines joined, comments left out, heredocs included."""
        if self.name != "RUN":
            return ""
        known = self._memory.get("script")
        if not isinstance(known, str):
            known = self._memory["script"] = self._script()[:_MAX_SCRIPT]
        return known

    def _script(self) -> str:
        text = "\n".join(line.rstrip("\r") for line in self.raw if not line.lstrip().startswith("#"))
        text = text[: 2 * _MAX_SCRIPT]
        text = re.sub(rf"{re.escape(self._dockerfile.escape)}[ \t]*\n", " ", text)
        text = text[found.end() :] if (found := _RUN.match(text)) else text
        if text.startswith("["):
            try:
                words = json.loads(text)
            except (ValueError, RecursionError):
                return text
            if isinstance(words, list) and all(isinstance(word, str) for word in words):
                return (
                    words[2]
                    if words[:2] in (["/bin/sh", "-c"], ["sh", "-c"], ["bash", "-c"]) and len(words) > 2
                    else shlex.join(words)
                )
        return text

    @property
    def commands(self) -> tuple[Command, ...]:
        """The simple commands of a RUN."""
        if "commands" not in self._memory:
            self._memory["commands"] = commands(self.script)
        return self._memory["commands"]  # type: ignore[return-value]

    @property
    def installs(self) -> tuple[Install, ...]:
        """What a RUN installs."""
        return tuple(found for command in self.commands if (found := install(command)) is not None)

    def line_of(self, pattern: str) -> int:
        """Number of the first of its lines in which *pattern* is found, else its first line."""
        for number, line in enumerate(self.raw, self.first):
            if not line.lstrip().startswith("#") and re.search(pattern, line[:_MAX_WORD]):
                return number
        return self.first

    def mounts(self, kind: str) -> list[str]:
        """The ``--mount`` flags of that type."""
        return [
            value for name, value in self.instruction.flags if name == "mount" and f"type={kind}" in value.split(",")
        ]


@dataclass(frozen=True)
class Copy:
    """A COPY or ADD, and what it puts where.

    Attributes:
        sources: expanded; unknown ones are left as written. target: absolute, or None where not known.
        files: (path in the image or "", file) of what the context gives; without ignored ones.
        weights: those of *files* that are checkpoint files.
        named: sources that by their name alone are weights, and are not in the context as it is here.
        role: checkpoint | mixed | code | dependencies | other.
    """

    step: Step
    sources: tuple[str, ...]
    target: str | None
    files: tuple[tuple[str, Entry], ...]
    weights: tuple[tuple[str, Entry], ...]
    named: tuple[str, ...]
    role: str

    @property
    def bytes(self) -> int | None:
        """Of its weights; None where they are not here."""
        return sum(entry.size for _, entry in self.weights) if self.weights and not self.named else None

    @property
    def total(self) -> int:
        """Of all its files, as far as known."""
        return sum(entry.size for _, entry in self.files)

    @property
    def whole(self) -> bool:
        """Whether it copies the whole context."""
        return self.step.instruction.flag("from") is None and any(
            posixpath.normpath("/" + source) == "/" for source in self.sources
        )

    def what(self) -> str:
        """Its weights in a few words."""
        names = [entry.path for _, entry in self.weights] + list(self.named)
        if not names and self.step.instruction.flag("from"):
            names = [f"--from={self.step.instruction.flag('from')}"]
        return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more" if names else "the checkpoint"


@dataclass(frozen=True)
class Stage:
    """A stage: its FROM, and the name of the image from elsewhere that it stands on ("" where not known)."""

    index: int
    name: str
    base: str
    start: Step
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Document:
    """The whole file.

    Attributes:
        lines: as written, ``\\r`` kept.
        chain: steps of the stage that is built and of those it stands on, FROM lines left out.
        copies: COPY and ADD of *chain*; elsewhere: those of the other stages.
        root: the base image of *chain*, expanded, "" where a variable has no value.
        problem: (line, why) of a file that cannot be read as a Dockerfile.
    """

    file: str
    lines: tuple[str, ...]
    instructions: tuple[Instruction, ...]
    stages: tuple[Stage, ...] = ()
    chain: tuple[Step, ...] = ()
    copies: tuple[Copy, ...] = ()
    elsewhere: tuple[Copy, ...] = ()
    root: str = ""
    root_step: Step | None = None
    problem: tuple[int, str] | None = None
    comments: Mapping[int, frozenset[str]] = field(default_factory=dict)

    def steps(self) -> Iterator[Step]:
        """All of them, FROM included."""
        for stage in self.stages:
            yield stage.start
            yield from stage.steps

    def ignored(self, line: int) -> frozenset[str]:
        """Rules that are turned off for *line*."""
        return self.comments.get(line, frozenset())


def read(text: str, facts: Facts, *, file: str = "Dockerfile", target: str = "") -> Document:
    """The document that *text* is.

    Raises:
        ConfigurationError: no stage *target*.
    """
    lines = tuple(text.removeprefix("\ufeff").split("\n"))
    tamed, read_ = tame(text)
    spans = _spans(read_, tamed.split("\n"))
    ignored = {first: _ignored(lines, first, last) for first, last in spans.items()}
    bare = next((i for i in read_ if i.name == "FROM" and not i.words), None)
    problem = None
    if bare is not None:
        problem = (bare.line, "FROM names no image")
    elif not any(instruction.name == "FROM" for instruction in read_):
        problem = (1, "no FROM line is in it, so that nothing can be built from it")
    comments = {
        line: names for first, last in spans.items() if (names := ignored[first]) for line in range(first, last + 1)
    }
    if problem is not None:
        return Document(file, lines, read_, problem=problem, comments=comments)
    dockerfile = Dockerfile(tamed, {})
    built = dockerfile.target(target)
    chain = [built] if len(dockerfile.stages) > _MAX_STAGES else dockerfile.chain(built)
    reader = _Reader(dockerfile, lines, spans, ignored)
    in_chain = reader.steps(chain)
    indexes = {stage.index for stage in chain}
    by_stage: dict[int, list[Step]] = {index: [] for index in indexes}
    for step in in_chain:
        by_stage[step.stage].append(step)
    stages, others = [], []
    for stage in dockerfile.stages:
        own = by_stage[stage.index] if stage.index in indexes else reader.steps([stage])
        stages.append(
            Stage(stage.index, stage.name, "" if stage.unknown else stage.base, reader.start(stage), tuple(own))
        )
        if stage.index not in indexes:
            others += own
    root = stages[chain[0].index]
    copies, elsewhere = tuple(_copies(in_chain, facts)), tuple(_copies(others, facts))
    return Document(
        file, lines, read_, tuple(stages), tuple(in_chain), copies, elsewhere, root.base, root.start, None, comments
    )


class _Reader:
    """Makes steps: what is the same for all of a file is kept here."""

    def __init__(
        self,
        dockerfile: Dockerfile,
        lines: tuple[str, ...],
        spans: Mapping[int, int],
        ignored: Mapping[int, frozenset[str]],
    ) -> None:
        self.dockerfile, self.lines, self.spans, self.ignored = dockerfile, lines, spans, ignored

    def start(self, stage: stages.Stage) -> Step:
        return self._step(stage.start, self.dockerfile.globals, None, "", stage.index)

    def steps(self, chain: list[stages.Stage]) -> list[Step]:
        """The steps of *chain*, each knowing what stands before it."""
        result = []
        owners = (stage.index for stage in chain for _ in stage.body)
        shared: Mapping[str, str] = {}
        user = ""
        for (instruction, variables, workdir), owner in zip(self.dockerfile.walk(chain), owners, strict=True):
            shared = shared if shared == variables else variables
            result.append(self._step(instruction, shared, workdir, user, owner))
            if instruction.name == "USER" and instruction.words:
                user = instruction.words[0]
        return result

    def _step(
        self, instruction: Instruction, variables: Mapping[str, str], workdir: str | None, user: str, stage: int
    ) -> Step:
        first = instruction.line
        last = self.spans.get(first, first)
        raw = self.lines[first - 1 : last]
        ignored = self.ignored.get(first, frozenset())
        return Step(instruction, first, last, raw, variables, workdir, user, stage, ignored, self.dockerfile)


def _spans(read_: tuple[Instruction, ...], lines: list[str]) -> dict[int, int]:
    """First line -> last line of each instruction."""
    spans = {}
    for at, instruction in enumerate(read_):
        last = read_[at + 1].line - 1 if at + 1 < len(read_) else len(lines)
        while last > instruction.line and (not lines[last - 1].strip() or lines[last - 1].lstrip().startswith("#")):
            last -= 1
        spans[instruction.line] = last
    return spans


def _ignored(lines: tuple[str, ...], first: int, last: int) -> frozenset[str]:
    at = first - 2
    while at >= 0 and lines[at].lstrip().startswith("#"):
        at -= 1
    names: set[str] = set()
    for line in lines[at + 1 : last]:
        if line.lstrip().startswith("#") and (found := _IGNORE.match(line.strip())):
            names.update(name.strip() for name in found[1].split(","))
    return frozenset(names)


# ------------------------------------------------------------------------------------------------------------ copies


def _copies(steps: Iterable[Step], facts: Facts) -> Iterator[Copy]:
    left = _MAX_COPIES
    for step in steps:
        if step.name in ("COPY", "ADD") and len(step.instruction.words) >= 2 and left:
            left -= 1
            yield _copy(step, facts)


def _copy(step: Step, facts: Facts) -> Copy:
    *written, target = step.instruction.words
    sources = tuple(step.expand(word) or word for word in written if not word.startswith("<<"))
    place = step.absolute(target)
    folder = target.endswith(("/", "/.")) or target in (".", "..") or len(sources) > 1
    from_ = step.instruction.flag("from")
    files: dict[str, tuple[str, Entry]] = {}
    named = []
    for source in sources if from_ is None else ():
        if re.match(r"[a-z]+://|git@", source):
            continue
        matched = facts.select(source)
        excludes = [value for name, value in step.instruction.flags if name == "exclude"]
        for below, entry in matched:
            if entry.ignored or (excludes and _excluded(entry.path, excludes)):
                continue
            single = not folder and below == posixpath.basename(entry.path) and posixpath.normpath(source) == entry.path
            where = "" if place is None else place if single else posixpath.join(place, below)
            files[entry.path] = (where, entry)
        if not matched and is_checkpoint_name(source) and not source.lower().endswith(".bin"):
            named.append(source)
    if from_ is not None:
        named = [source for source in sources if is_checkpoint_name(source)]
    weights = tuple(pair for pair in files.values() if facts.checkpoint(pair[1]))
    role = _role(step, sources, tuple(files.values()), bool(weights or named))
    return Copy(step, sources, place, tuple(files.values()), weights, tuple(named), role)


def _excluded(path: str, patterns: Iterable[str]) -> bool:
    try:
        return Matcher(list(patterns)).excludes(path)
    except ConfigurationError:
        return False


def _role(step: Step, sources: tuple[str, ...], files: tuple[tuple[str, Entry], ...], weights: bool) -> str:
    from_ = step.instruction.flag("from")
    if from_ is not None:
        return "checkpoint" if weights or from_.lower() == "checkpoint" else "other"
    names = [entry.path for _, entry in files] or list(sources)
    code = any(name.lower().endswith(_CODE_SUFFIXES) and not is_requirements(name) for name in names)
    if not files:
        ends = {posixpath.basename(posixpath.normpath(source)) for source in sources}
        code |= bool(ends & _CODE_NAMES) or any(posixpath.normpath("/" + source) == "/" for source in sources)
        weights |= not code and bool(ends & _CHECKPOINT_NAMES)
    if weights:
        return "mixed" if code else "checkpoint"
    if all(is_requirements(name) for name in names):
        return "dependencies"
    return "code" if code else "other"

"""Reference pages out of the code: commands, tables of layerkit.toml, exit statuses, labels, the Python API.

A page that says ``<!-- generated: NAME -->`` gets in that line's place what the function NAME of PAGES returns:
Markdown, made from click's own objects, from the JSON schema, from the tree of errors. Nothing of it is kept.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import layerkit
from layerkit import errors
from layerkit.cli.app import cli

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DOCS = Path(__file__).parent.parent
SOURCE = Path(layerkit.__file__).parent
_MARK = re.compile(r"^<!-- generated: ([\w-]+) -->$", re.MULTILINE)


def escape(text: str) -> str:
    """*text* with nothing in it that Markdown would take for its own."""
    return re.sub(r"([\\`*_<>\[\]#|{}~])", r"\\\1", text)


# ------------------------------------------------------------------------------------------------------- commands


def walk(command: click.Command, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """*command* and all below it, each with its context, by name."""
    yield command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None and not found.hidden:
                yield from walk(found, click.Context(found, info_name=name, parent=context))


def commands() -> str:
    """A section for each command, an ``option`` directive for each of its options."""
    parts = []
    for command, context in walk(cli, click.Context(cli, info_name="layerkit", **cli.context_settings)):
        path = context.command_path
        if isinstance(command, click.Group):
            usage = f"{path} COMMAND"
        else:
            usage = " ".join([path, *command.collect_usage_pieces(context)])
        parts += [f"## {path}", help_text(command), f"```text\n{usage}\n```", f"```{{program}} {path}\n```"]
        parts += [option(*record) for record in options(command, context)]
    return "\n\n".join(parts)


def options(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    """("-t, --tag TAG", "what it does") of each option but --help."""
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and "--help" not in parameter.opts:
            yield record


def option(names: str, text: str) -> str:
    return f"````{{option}} {names}\n\n{escape(text)}\n````"


def help_text(command: click.Command) -> str:
    """The help of a command, paragraph by paragraph; one that begins with backspace keeps its lines, as in click."""
    parts = []
    for paragraph in inspect.cleandoc(command.help or "").split("\f")[0].split("\n\n"):
        if paragraph.startswith("\b"):
            parts.append("```text\n" + paragraph.lstrip("\b\n") + "\n```")
        else:
            parts.append(escape(" ".join(paragraph.split())))
    return "\n\n".join(parts)


# -------------------------------------------------------------------------------------------------- layerkit.toml


def configuration() -> str:
    """A section for each table, a ``confval`` for each key; tables that keys hold come last."""
    document = layerkit.schema()
    tables = document["$defs"]
    named = {_reference(content): name for name, content in document["properties"].items()}
    parts = []
    for table in [*named, *(name for name in tables if name not in named)]:
        name = named.get(table, "")
        prefix = f"{name}." if name else f"{table.lower()}."
        head, *rest = tables[table].get("description", "").split("\n\n")
        head = re.sub(r"^``\[.*?\]``: ", "", head)
        parts += [f"## `[{name}]`" if name else f"## {table}", *(_prose(text) for text in (head, *rest) if text)]
        required = tables[table].get("required", ())
        for key, content in tables[table]["properties"].items():
            parts.append(confval(prefix + key, content, required=key in required))
    return "\n\n".join(parts)


def confval(name: str, content: Mapping[str, Any], *, required: bool) -> str:
    lines = [f"````{{confval}} {name}", f":type: {kind(content)}"]
    default = content.get("default")
    if required:
        lines.append(":default: none, must be given")
    elif default not in (None, "", [], {}):
        lines.append(f":default: `{json.dumps(default)}`")
    return "\n".join([*lines, "", escape(content.get("description", "")), "````"])


def kind(content: Mapping[str, Any]) -> str:
    """A JSON schema's type in words."""
    if "$ref" in content:
        return f"{_reference(content)} (below)"
    if "anyOf" in content:
        return " or ".join(kind(one) for one in content["anyOf"] if one.get("type") != "null")
    if "enum" in content:
        return " or ".join(f"`{json.dumps(value)}`" for value in content["enum"])
    match content.get("type"):
        case "array":
            return f"array of {kind(content.get('items', {}))}"
        case "object":
            inner = content.get("additionalProperties")
            return f"table of {kind(inner)}" if isinstance(inner, dict) else "table"
        case "integer" | "number" as found:
            low, high = content.get("minimum"), content.get("maximum")
            return found if low is None and high is None else f"{found}, {low} to {high}"
        case None:
            return "value"
        case found:
            return str(found)


def _reference(content: Mapping[str, Any]) -> str:
    """``Image`` of ``{"$ref": "#/$defs/Image"}``, also where it is one of several."""
    for one in (content, *content.get("anyOf", ()), *content.get("allOf", ())):
        if "$ref" in one:
            return str(one["$ref"]).rpartition("/")[2]
    return ""


def _prose(text: str) -> str:
    """A docstring's paragraph: double backticks become single ones, the rest is plain."""
    pieces = re.split(r"``(.+?)``", " ".join(text.split()))
    return "".join(f"`{piece}`" if at % 2 else escape(piece) for at, piece in enumerate(pieces))


# -------------------------------------------------------------------------------------------------- exit statuses

# Those that no exception stands for: cli/app.py.
_OTHER = {
    0: ("", "done"),
    10: ("", "`plan --exit-code`: something would change"),
    130: ("", "interrupted by Ctrl-C; no tag was moved"),
    143: ("", "ended by SIGTERM, or with its terminal (SIGHUP); no tag was moved"),
}


def statuses() -> str:
    """A row for each exit status: the error of that status, and the words of the tree in errors.py."""
    words = dict(re.findall(r"(\w+Error) +\d+  (.+)", errors.__doc__ or ""))
    rows = dict(_OTHER)
    for error in (errors.LayerkitError, *errors.LayerkitError.__subclasses__()):
        if error.__module__ == errors.__name__:
            rows[error.exit_status] = (f"{{py:class}}`layerkit.{error.__name__}`", escape(words[error.__name__]))
    lines = ["| status | error | when |", "| --- | --- | --- |"]
    return "\n".join([*lines, *(f"| {status} | {name} | {text} |" for status, (name, text) in sorted(rows.items()))])


# ---------------------------------------------------------------------------------------------------------- labels

LABELS = {
    "runtime": "the key of the image's runtime image: `REPO:runtime-<key>`",
    "checkpoint": "the key of its checkpoint, in it or to be mounted (`artifact`): `REPO:checkpoint-<key>`",
    "checkpoint.digest": "the digest of the weights, as `LAYERKIT_CHECKPOINT_DIGEST` has it",
    "checkpoint.weights": "the weights hash of what is in the image, where they were read as tensors",
    "checkpoint.recipe": "annotation of a manifest: how the layers were made of the files, where not as they are",
    "checkpoint.samples": "annotation of a manifest: what a later plan needs to see which layers may be the same",
    "checkpoint.location": "of a checkpoint image: where a program finds the weights",
    "checkpoint.target": "of a checkpoint image: the folder that its files belong in",
    "placement": "`layer`, `volume` or `artifact`",
    "inputs": "short digests of all that went in; a later plan says from them what changed",
    "role": "of a layer's descriptor: `base`, `dependencies`, `checkpoint` or `code`",
}


def found_labels() -> frozenset[str]:
    """Names after ``dev.layerkit.`` in the sources: in a text, or as ``PREFIX + "name"``."""
    names = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Constant(value=str(text)):
                    names |= {m[1].rstrip(".") for m in re.finditer(r"(?:^|[^\w.])dev\.layerkit\.([a-z.]+)", text)}
                case ast.BinOp(left=ast.Name(id="PREFIX"), right=ast.Constant(value=str(text))):
                    names.add(text)
    return frozenset(names - {""})


def labels() -> str:
    """A row for each label or annotation that the code knows."""
    lines = ["| `dev.layerkit.` | what |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| `{name}` | {text} |" for name, text in LABELS.items() if name in found_labels())])


# ------------------------------------------------------------------------------------------------------ Python API

_SECTIONS = {
    "pipeline": "Plan and build",
    "project": "What to build",
    "planner": "What a plan says",
    "results": "What a build says",
    "forecast": "Plans held against builds",
    "events": "What happens meanwhile",
    "settings": "Surroundings",
    "errors": "Errors",
}
_TABLES = ("Builder", "Cache", "Checkpoint", "Code", "Dependencies", "Image", "Project", "Secret")


def api() -> str:
    """autodoc of every public name, by the module that defines it."""
    order = [*_SECTIONS, *(module for module in layerkit._MODULES if module not in _SECTIONS)]
    parts = []
    for module in order:
        names = layerkit._MODULES.get(module, "").split()
        if names:
            parts.append(f"## {_SECTIONS.get(module, module.rpartition('.')[2].capitalize())}")
            parts += [_autodoc(name, getattr(layerkit, name)) for name in names]
    return "\n\n".join(parts)


def _autodoc(name: str, value: object) -> str:
    lines = ["```{eval-rst}"]
    if inspect.isclass(value):
        lines += [f".. auto{'exception' if issubclass(value, BaseException) else 'class'}:: layerkit.{name}"]
        lines += ["   :members:"] if name not in _TABLES else []
    elif inspect.isroutine(value):
        lines += [f".. autofunction:: layerkit.{name}"]
    else:
        lines += [f".. autodata:: layerkit.{name}", "   :no-value:"]
    return "\n".join([*lines, "```"])


def plain_signature(
    app: Sphinx, what: str, name: str, value: object, options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None] | None:
    """The tables of layerkit.toml have checks in their annotations: shown are the names of their fields alone."""
    if what == "class" and name.rpartition(".")[2] in _TABLES:
        return "(" + ", ".join(inspect.signature(value).parameters) + ")", None  # type: ignore[arg-type]
    return None


def restore_prose(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """napoleon takes a property's words up to their first colon for its type: ours are a sentence."""
    if what in ("property", "attribute"):
        lines[:] = inspect.cleandoc(inspect.getdoc(value) or "\n".join(lines)).splitlines()


# ----------------------------------------------------------------------------------------------- tables of contents


def others() -> str:
    """The pages of docs/ that index.md does not name: each is found by being there."""
    index = (DOCS / "index.md").read_text(encoding="utf-8").splitlines()
    return "\n".join(path.stem for path in sorted(DOCS.glob("*.md")) if path.stem not in {"index", *index})


# ---------------------------------------------------------------------------------------------------------- Sphinx

PAGES = {
    "others": others,
    "commands": commands,
    "configuration": configuration,
    "statuses": statuses,
    "labels": labels,
    "api": api,
}


def fill(text: str) -> str:
    """*text* with each mark replaced by what its function makes."""
    return _MARK.sub(lambda mark: PAGES[mark[1]](), text)


def setup(app: Sphinx) -> Mapping[str, bool]:
    """What Sphinx calls."""

    def source_read(app: Sphinx, name: str, content: list[str]) -> None:
        content[0] = fill(content[0])

    app.connect("source-read", source_read)
    app.connect("autodoc-process-signature", plain_signature)
    app.connect("autodoc-process-docstring", restore_prose, priority=900)  # after napoleon's
    return {"parallel_read_safe": True, "parallel_write_safe": True}

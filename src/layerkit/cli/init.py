"""``layerkit init``: what a project looks like, as a layerkit.toml."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Found", "look", "render"]

_CHECKPOINTS = ("*.pth.tar", "*.pth", "*.pt", "*.safetensors", "*.ckpt", "*.bin")
_PROGRAMS = ("serve.py", "app.py", "main.py", "server.py", "inference.py", "predict.py", "api.py")
_FOLDERS = ("src", "app", "models", "lib")
_HEAVY = ("torch", "torchvision", "torchaudio", "tensorflow", "jax", "nvidia-*", "triton", "vllm", "xformers")


@dataclass
class Found:
    """What was concluded, and from what (``reasons``, a line each)."""

    name: str
    dockerfile: str = ""
    requirements: str = ""
    separate: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    checkpoint: str = ""
    reasons: list[str] = field(default_factory=list)


def look(folder: Path) -> Found:
    """Conclude what to build from the files in *folder*; nothing is read but names and requirements.txt."""
    name = re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-") or "model"
    found = Found(name)
    found.reasons.append(f"image.name = {name!r}: the folder's name")
    checkpoint = _checkpoint(folder)
    if checkpoint:
        found.checkpoint = checkpoint
        found.reasons.append(f"checkpoint.path = {checkpoint!r}: the largest file or folder of weights")
    dockerfile = folder / "Dockerfile"
    if dockerfile.is_file() and "--from=checkpoint" in dockerfile.read_text(errors="replace"):
        found.dockerfile = "Dockerfile"
        found.reasons.append("image.dockerfile = 'Dockerfile': it has a COPY --from=checkpoint line")
        return found
    if dockerfile.is_file():
        found.reasons.append("Dockerfile: not used, for it has no COPY --link --from=checkpoint line")
    requirements = folder / "requirements.txt"
    if requirements.is_file():
        found.requirements = "requirements.txt"
        found_names = re.findall(r"(?m)^\s*([A-Za-z0-9][A-Za-z0-9._-]*)", requirements.read_text(errors="replace"))
        names = {re.sub(r"[-_.]+", "-", name).lower() for name in found_names}
        heavy = [pattern for pattern in _HEAVY if fnmatch.filter(names, pattern)]
        found.separate = tuple(heavy)
        found.reasons.append("dependencies.requirements = 'requirements.txt': it is there")
        if heavy:
            found.reasons.append(f"dependencies.separate = {heavy}: the heavy packages of requirements.txt")
    programs = [program for program in _PROGRAMS if (folder / program).is_file()]
    folders = [name for name in _FOLDERS if (folder / name).is_dir() and any((folder / name).rglob("*.py"))]
    modules = [
        path.name
        for path in sorted(folder.glob("*.py"))
        if not re.match(r"(test_|train|setup|build|conftest)", path.name)
    ]
    found.code = (*modules, *folders)
    if programs:
        found.command = ("python", programs[0])
        found.reasons.append(f"image.command = {list(found.command)}: {programs[0]} is there")
    found.reasons.append(f"code.include = {list(found.code)}: modules and folders of code")
    return found


def _checkpoint(folder: Path) -> str:
    candidates = [p for pattern in _CHECKPOINTS for p in folder.glob(pattern) if p.is_file()]
    for sub in ("checkpoints", "checkpoint", "weights", "model", "models"):
        inside = [p for pattern in _CHECKPOINTS for p in (folder / sub).glob(pattern) if p.is_file()]
        if (folder / sub / "model.safetensors.index.json").is_file():
            return sub
        candidates += inside
    if not candidates:
        return ""
    return str(max(candidates, key=lambda p: (p.stat().st_size, p.name)).relative_to(folder).as_posix())


def _list(items: tuple[str, ...]) -> str:
    return "[" + ", ".join(_text(item) for item in items) + "]"


def _text(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def render(found: Found) -> str:
    """The layerkit.toml for what was found; what was not is there as a comment."""
    lines = [
        "# What layerkit builds. Every key: layerkit schema",
        "[image]",
        f"name = {_text(found.name)}  # repository to push to: ghcr.io/acme/{found.name}",
    ]
    if found.dockerfile:
        lines.append(f"dockerfile = {_text(found.dockerfile)}")
    else:
        lines.append('base = "python:3.11-slim"')
        command = f"command = {_list(found.command)}" if found.command else '# command = ["python", "serve.py"]'
        lines.append(command)
        lines += ["", "[dependencies]"]
        if found.requirements:
            lines.append(f"requirements = {_text(found.requirements)}")
            lines.append(f"separate = {_list(found.separate)}  # in a layer of their own, for they change seldom")
        else:
            lines.append('# requirements = "requirements.txt"')
        lines += ["", "[code]"]
        lines.append(f"include = {_list(found.code)}" if found.code else '# include = ["serve.py", "src"]')
    lines.append("")
    if found.checkpoint:
        lines += ["[checkpoint]", f"path = {_text(found.checkpoint)}"]
        if not found.dockerfile:
            lines += ['target = "/app/model/"', 'chown = "root:root"']
    else:
        lines += ["# [checkpoint]", '# path = "checkpoint.pth.tar"', '# target = "/app/model/"']
    return "\n".join(lines) + "\n"

"""``hf://…`` paths, and which files of a model's repository are its checkpoint. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from ..errors import CheckpointError, ConfigurationError, printable

__all__ = ["PREFIX", "HubPath", "chosen", "is_hub"]

PREFIX = "hf://"
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]{0,199}")
_COMMIT = re.compile(r"[0-9a-f]{40}")

# What is read beside the weights to load them: configurations, tokenizers, vocabularies, chat templates.
_BESIDE = ("*.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "*.spm", "*.tiktoken", "merges.txt",
           "vocab.txt", "*.jinja")  # fmt: skip
_NOT_BESIDE = ("*.index.json", "trainer_state.json", "training_args.json", "all_results.json", "train_results.json",
               "eval_results.json", "onnx_config.json")  # fmt: skip
# A model of these is a folder of parts (diffusers, sentence-transformers); of others what is in folders is something
# else: checkpoints of the training, other formats.
_PARTED = ("model_index.json", "modules.json")
_SHARD = re.compile(r"-\d+-of-\d+\.(?:safetensors|bin)$")
# As transformers, diffusers, sentence-transformers and PEFT look for them, the first that is there.
_WEIGHTS = ("model.safetensors", "diffusion_pytorch_model.safetensors", "adapter_model.safetensors",
            "pytorch_model.bin", "diffusion_pytorch_model.bin", "adapter_model.bin")  # fmt: skip


def is_hub(path: str) -> bool:
    """Whether checkpoint.path names something of the hub."""
    return path.startswith(PREFIX)


@dataclass(frozen=True, slots=True)
class HubPath:
    """``hf://ORG/NAME[/INSIDE][@REVISION]``.

    Attributes:
        repository: ``org/name``.
        inside: a file or folder in it; "" for the whole.
        revision: branch, tag or commit.
    """

    repository: str
    inside: str
    revision: str

    @classmethod
    def parse(cls, text: str) -> HubPath:
        """Raises ConfigurationError where *text* is no such path."""
        rest, _, revision = text.removeprefix(PREFIX).partition("@")
        parts = rest.strip("/").split("/")
        fine = len(parts) >= 2 and all(_NAME.fullmatch(part) and ".." not in part for part in parts[:2])
        if not fine or any(part in ("", ".", "..") or not part.isprintable() for part in parts[2:]):
            raise _wrong(text, "names no model")
        if "@" in text and (not _REVISION.fullmatch(revision) or ".." in revision):
            raise _wrong(text, "has no valid revision after the @")
        return cls("/".join(parts[:2]), "/".join(parts[2:]), revision or "main")

    @property
    def fixed(self) -> bool:
        """The revision is a commit, of which nothing can change."""
        return _COMMIT.fullmatch(self.revision) is not None


def _wrong(text: str, what: str) -> ConfigurationError:
    return ConfigurationError(
        f"checkpoint.path: {printable(text, 200)!r} {what}", hint="hf://ORG/NAME[/FILE-OR-FOLDER][@REVISION]"
    )


def chosen(names: Collection[str], inside: str, where: str) -> dict[str, str]:
    """Path below the target -> name in the repository, of the files that are the checkpoint.

    A file that is named is taken alone. Of a folder (the repository's own, by default): weights in safetensors, else
    those that torch.save wrote, never both; and what is read beside them (``_BESIDE``). Folders in it only where
    they are parts of the model.

    Raises:
        CheckpointError: no such file or folder, or no weights in it.
    """
    if inside in names:
        return {PurePosixPath(inside).name: inside}
    prefix = f"{inside}/" if inside else ""
    below = {name.removeprefix(prefix): name for name in names if name.startswith(prefix)}
    if not below:
        raise CheckpointError(
            f"checkpoint: {where} has no {printable(inside, 200)!r}", hint=f"it has {_some(names)}" if names else ""
        )
    parted = any(name in below for name in _PARTED)
    folders: dict[str, list[str]] = {}
    for name in below:
        folder, _, file = name.rpartition("/")
        if parted or not folder:
            folders.setdefault(folder, []).append(file)
    found: dict[str, str] = {}
    weights = False
    for folder, files in folders.items():
        # Diffusers' weights are in its parts; a file beside them is all of them once more, for other programs.
        own = [] if not folder and "model_index.json" in below else _weights(files)
        weights = weights or bool(own)
        for file in [*own, *(file for file in files if _is_beside(file))]:
            path = f"{folder}/{file}" if folder else file
            found[path] = below[path]
    if not weights:
        held = [name for name in names if name.endswith((".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf"))]
        raise CheckpointError(
            f"checkpoint: {where}: no weights are chosen of {printable(inside or 'it', 200)}",
            hint=f"name a file or a folder: {_some(held)}" if held else "it has no weights that torch can load",
        )
    return found


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    shown = ", ".join(printable(name, 80) for name in ordered[:5])
    return shown + (f" and {len(ordered) - 5} more" if len(ordered) > 5 else "")


def _is_beside(file: str) -> bool:
    named = any(fnmatchcase(file, pattern) for pattern in _BESIDE)
    return named and not any(fnmatchcase(file, pattern) for pattern in _NOT_BESIDE) and not file.startswith(".")


def _weights(files: Collection[str]) -> list[str]:
    """Of one folder: shards with their index, else the file of the usual name, else the only one that there is."""
    for ending in (".safetensors", ".bin"):
        group = sorted(file for file in files if file.endswith(ending))
        # Of the index "model.safetensors.index.json" the shards are "model-00001-of-00002.safetensors".
        for index in sorted(file for file in files if file.endswith(f"{ending}.index.json")):
            stem = index.removesuffix(f"{ending}.index.json")
            shards = [file for file in group if _SHARD.search(file) and _SHARD.sub("", file) == stem]
            if shards:
                return [index, *shards]
        usual = next((name for name in _WEIGHTS if name in group), "")
        if usual:
            return [usual]
        if len(group) == 1 and (ending == ".safetensors" or group[0].startswith("pytorch_model")):
            return group
    return []

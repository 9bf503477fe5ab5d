"""What a project installs: which file says it, which packages are heavy, what Python it runs on. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial

from ..errors import ConfigurationError
from ..runtime.declared import from_pyproject, from_uv_lock
from ..runtime.requirements import Requirements, normalise, parse
from .facts import Look

__all__ = ["Needs", "needs", "python_version"]

# Packages of 100 MB and more with what they bring, by what wheels weighed in 2026; as globs on normalised names.
HEAVY = (
    "torch", "torchvision", "torchaudio", "triton", "nvidia-*", "tensorflow", "tensorflow-cpu", "jax", "jaxlib",
    "vllm", "xformers", "flash-attn", "bitsandbytes", "deepspeed", "onnxruntime", "onnxruntime-gpu", "openvino",
    "xgboost", "lightgbm", "catboost", "faiss-cpu", "faiss-gpu", "opencv-python", "opencv-python-headless", "scipy",
    "pyspark", "mxnet", "paddlepaddle", "paddlepaddle-gpu",
)  # fmt: skip
# What wheels of these load from the system, by Debian's names.
_APT = {
    "opencv-python": ("libgl1", "libglib2.0-0"),
    "opencv-contrib-python": ("libgl1", "libglib2.0-0"),
    "soundfile": ("libsndfile1",),
    "pydub": ("ffmpeg",),
    "openai-whisper": ("ffmpeg",),
    "pytesseract": ("tesseract-ocr",),
    "pdf2image": ("poppler-utils",),
}
_NOT_SERVING = re.compile(r"(dev|test|lint|doc|train|research|notebook|constraint|bench|example)", re.IGNORECASE)
_SERVING = re.compile(r"(prod|serv|infer|deploy|api|runtime|app|docker|main|base)", re.IGNORECASE)
_OLDEST, _USUAL, _NEWEST = 10, 11, 13  # of 3.x: what is maintained, and what most wheels are there for


@dataclass(frozen=True)
class Needs:
    """What is installed.

    Attributes:
        requirements: value of ``dependencies.requirements``, or "".
        found: what it says; None where there is none.
        why: one clause.
        installer, wheels, apt, build_apt, separate: values of these keys.
        torch: which builds of torch come: cpu, cuda, rocm, "default" where the index decides, or "" for none.
        notes: what the reader should know.
    """

    requirements: str = ""
    found: Requirements | None = None
    why: str = ""
    installer: str = "pip"
    wheels: str = ""
    apt: tuple[str, ...] = ()
    build_apt: tuple[str, ...] = ()
    separate: tuple[str, ...] = ()
    torch: str = ""
    notes: tuple[str, ...] = ()
    names: frozenset[str] = field(default_factory=frozenset)


def needs(look: Look) -> Needs:
    """What the project installs, from the first of its files that can be used."""
    notes: list[str] = []
    for path, why, read in _sources(look):
        try:
            found = read()
        except ConfigurationError as error:
            notes.append(f"{error.message}" + (f" ({error.hint})" if error.hint else ""))
            continue
        if not found.installed:
            continue
        names = frozenset(entry.name for entry in found.installed if entry.name)
        wheels = _wheels(look, names)
        uv = not wheels and (path.endswith("uv.lock") or _uses_uv(look))
        apt = tuple(sorted({package for name in names for package in _APT.get(name, ())}))
        git = any("git+" in entry.text for entry in found.installed)
        torch = _torch(found, names)
        separate = tuple(p for p in HEAVY if any(fnmatchcase(name, p) for name in names))
        if torch in ("cuda", "default") and "nvidia-*" not in separate:
            separate = tuple(p for p in HEAVY if p in (*separate, "nvidia-*"))
        if torch == "default" and not wheels:
            notes.append("torch: as it is required the index decides which build comes; PyPI's brings CUDA, several GB")
        return Needs(
            path,
            found,
            why,
            "uv" if uv else "pip",
            wheels,
            apt,
            ("git",) if git else (),
            separate,
            torch,
            tuple(notes + list(_others(look, path))),
            names,
        )
    return Needs(notes=tuple(notes + list(_others(look, ""))))


def _sources(look: Look) -> Iterator[tuple[str, str, Callable[[], Requirements]]]:
    """(value of the key, why, a function that reads it), the best first."""
    pyproject = look.documents.get("pyproject.toml")
    lock = look.documents.get("uv.lock")
    if lock is not None:
        yield "uv.lock", "the lock says what is installed", lambda: from_uv_lock("uv.lock", lock, described=pyproject)
    for path in sorted((p for p in look.texts if _is_requirements(p)), key=_preference):
        yield path, "it is there", partial(_read, look, path)
    if pyproject is not None and _declares(pyproject):
        yield "pyproject.toml", "it lists the dependencies", lambda: from_pyproject("pyproject.toml", pyproject)


def _read(look: Look, path: str) -> Requirements:
    def text(name: str) -> str:
        if name not in look.texts:
            raise ConfigurationError(f"{path}: it includes {name!r}, which is not here")
        return look.texts[name]

    return parse(path, text)


def _is_requirements(path: str) -> bool:
    folder, _, name = path.rpartition("/")
    if not re.fullmatch(r"[A-Za-z0-9@%+=:._/-]+", path) or not name.endswith((".txt", ".in")):
        return False
    if folder.rpartition("/")[2] == "requirements":
        return not _NOT_SERVING.search(name)
    return "requirements" in name and not _NOT_SERVING.search(name) and path.count("/") <= 2


def _preference(path: str) -> tuple[int, int, int, str]:
    name = path.rpartition("/")[2]
    # In the project folder the plain name is the custom; in a folder of them, what is named after serving.
    order = 0 if name == "requirements.txt" else 1 if _SERVING.search(name) else 2
    return path.count("/"), order, name.endswith(".in"), path


def _declares(pyproject: Mapping[str, object]) -> bool:
    project, tool = pyproject.get("project"), pyproject.get("tool")
    poetry = tool.get("poetry") if isinstance(tool, Mapping) else None
    return isinstance(project, Mapping) or (isinstance(poetry, Mapping) and "dependencies" in poetry)


def _uses_uv(look: Look) -> bool:
    tool = look.documents.get("pyproject.toml", {}).get("tool")
    if isinstance(tool, Mapping) and "uv" in tool:
        return True
    docker = [text for path, text in look.texts.items() if "dockerfile" in path.rpartition("/")[2].lower()]
    return any(re.search(r"\buv (pip install|sync)\b", text) for text in docker)


def _wheels(look: Look, names: frozenset[str]) -> str:
    """A folder that has a wheel of everything that is required by name."""
    for folder in ("wheels", "wheelhouse", "vendor/wheels"):
        inside = [file.name for file in look.below(folder) if file.name.endswith(".whl")]
        if inside and names <= {normalise(name.split("-")[0]) for name in inside}:
            return folder
    return ""


def _torch(found: Requirements, names: frozenset[str]) -> str:
    if "torch" not in names:
        return ""
    text = "\n".join([*found.options, *(e.text for e in found.entries if e.name == "torch")])
    kind = re.search(r"/whl/(?:nightly/|test/)?(cpu|cu|rocm)|\+(cpu|cu|rocm)", text)
    if kind is not None:
        return {"cpu": "cpu", "cu": "cuda", "rocm": "rocm"}[kind[1] or kind[2]]
    return "cuda" if any(name.startswith("nvidia-") for name in names) else "default"


def _others(look: Look, used: str) -> Iterator[str]:
    """What else there is that says what to install, and is not read."""
    for path in look.files:
        if path.folder:
            continue
        if path.name == "Pipfile" and not used:
            yield "Pipfile is not read: pipenv requirements > requirements.txt"
        elif re.fullmatch(r"environment[\w.-]*\.ya?ml", path.name) and not used:
            yield f"{path.name} is conda's and is not read: write what is served into requirements.txt"
        elif path.name in ("setup.py", "setup.cfg") and not used:
            yield f"{path.name} is not read: uv pip compile {path.name} -o requirements.txt"
        elif path.name == "poetry.lock" and used == "pyproject.toml":
            yield "poetry.lock is not read, so versions are free: poetry export -o requirements.txt pins them"


# ----------------------------------------------------------------------------------------------------------- python


def python_version(look: Look) -> tuple[str, str]:
    """(``3.12``, where that is said)."""
    for path, pattern in (
        (".python-version", r"^\s*(?:cpython-?)?(3\.\d+)"),
        ("runtime.txt", r"python-(3\.\d+)"),
    ):
        if found := re.search(pattern, look.texts.get(path, ""), re.MULTILINE):
            return found[1], f"{path} says {found[1]}"
    for path, text in look.texts.items():
        if "dockerfile" in path.lower() and (found := re.search(r"(?im)^FROM\s+\S*python:(3\.\d+)", text)):
            return found[1], f"{path} says {found[1]}"
    project = look.documents.get("pyproject.toml", {})
    inner = project.get("project")
    said = inner.get("requires-python") if isinstance(inner, Mapping) else None
    if not said and isinstance(tool := project.get("tool"), Mapping) and isinstance(p := tool.get("poetry"), Mapping):
        below = p.get("dependencies")
        said = below.get("python") if isinstance(below, Mapping) else None
    if isinstance(said, str) and (version := _allowed(said)):
        return version, f"pyproject.toml says {said}"
    for path, text in look.texts.items():
        if re.search(r"environment[\w.-]*\.ya?ml$", path) and (found := re.search(r"\bpython\s*=+\s*(3\.\d+)", text)):
            return found[1], f"{path} says {found[1]}"
    return f"3.{_USUAL}", ""


def _allowed(text: str) -> str:
    """The version to take of those that *text* allows: the usual one, else the nearest; "" where none is known."""

    def allowed(minor: int) -> bool:
        for part in (piece.strip() for piece in text.split(",")):
            found = re.fullmatch(r"(>=|<=|==|~=|!=|<|>|\^|~|)\s*3(?:\.(\d+))?(?:\.(?:\d+|\*))*", part)
            if found is None:
                if re.fullmatch(r"(<|<=)\s*4(\.0)*", part):
                    continue
                return False
            operator, bound = found[1], int(found[2] or 0)
            exact = len(part.split(".")) > 2 and "*" not in part
            holds = {
                ">=": minor >= bound, "^": minor >= bound, ">": minor > bound or (exact and minor == bound),
                "<=": minor <= bound, "<": minor < bound, "==": minor == bound, "": minor == bound,
                "~": minor == bound, "~=": minor == bound if exact else minor >= bound, "!=": minor != bound or exact,
            }  # fmt: skip
            if not holds[operator]:
                return False
        return True

    fitting = [minor for minor in range(_OLDEST, _NEWEST + 1) if allowed(minor)]
    if not fitting:
        return ""
    return f"3.{min(fitting, key=lambda minor: (abs(minor - _USUAL), minor))}"

"""How a project serves: which file is the program, what starts it, on which port, and what its code is. Pure."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..lint.facts import words
from .facts import Look

__all__ = ["Program", "code", "program", "programs"]

_NAMES = ("serve", "server", "app", "main", "api", "asgi", "wsgi", "inference", "predict", "handler", "service", "web")
_NOT_SERVING = re.compile(
    r"(?:test_.*|.*_test|conftest|train.*|.*_train|finetune.*|setup|noxfile|tasks|fabfile|build|evaluate|eval|export|"
    r"convert.*|download.*|prepare.*|preprocess.*|benchmark.*|plot.*)\.py"
)
_ASIDE = words("tests test docs doc notebooks examples benchmarks scripts tools training data experiments")
# Folders of a program that hold no Python.
_BESIDE = words("templates static config configs conf assets public prompts")
_ASGI = ("FastAPI", "Starlette", "Litestar", "Quart")
_SERVERS = {"uvicorn": 8000, "gunicorn": 8000, "hypercorn": 8000, "flask": 5000, "torchserve": 8080}


@dataclass(frozen=True)
class Program:
    """What starts the server.

    Attributes:
        command, env, expose: values of these keys of [image].
        why: one clause for the command; port_why: one for the port.
        notes: what the reader should know.
        apt: Debian packages that it needs.
    """

    command: tuple[str, ...] = ()
    why: str = ""
    port: int = 0
    port_why: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    apt: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    path: str = ""


def programs(look: Look) -> dict[str, str]:
    """Path -> text of the Python files that may serve, the likeliest first."""
    found = [path for path in look.texts if path.endswith(".py") and not _is_aside(path)]
    ignored = {file.path for file in look.files if file.ignored}
    found = [path for path in found if path not in ignored and _usable(path)]
    return {path: look.texts[path] for path in sorted(found, key=_rank)}


def _usable(path: str) -> bool:
    """Whether a command line or a COPY can name it without a thought."""
    return re.fullmatch(r"[A-Za-z0-9@%+=:,._/-]+", path) is not None


def _is_aside(path: str) -> bool:
    *folders, name = path.split("/")
    return bool(_ASIDE & {folder.lower() for folder in folders}) or _NOT_SERVING.fullmatch(name.lower()) is not None


def _rank(path: str) -> tuple[int, int, str]:
    stem = posixpath.basename(path).removesuffix(".py")
    return (_NAMES.index(stem) if stem in _NAMES else len(_NAMES)), path.count("/"), path


def program(look: Look, names: frozenset[str], model_store: str) -> Program:
    """What starts the server of *look*.

    Args:
        names: normalised names of what is installed.
        model_store: the folder in the image where the checkpoint will be.
    """
    texts = programs(look)
    for find in (_torchserve, _procfile, _asgi, _flask, _others):
        found = find(look, texts, names, model_store)
        if found is not None:
            return found
    return Program(notes=_nothing(look, texts))


def _nothing(look: Look, texts: Mapping[str, str]) -> tuple[str, ...]:
    books = [file.path for file in look.files if file.name.endswith(".ipynb")]
    if books and not texts:
        return (f"only notebooks ({books[0]}): jupyter nbconvert --to script makes a program of one",)
    return ("no program that serves was found: set image.command",)


# --------------------------------------------------------------------------------------------------------- frameworks


def _module(path: str, text: str, look: Look) -> tuple[str, str, dict[str, str]]:
    """(module, the folder that it is imported from, environment) of a file below /app."""
    folder, _, name = path.rpartition("/")
    stem = name.removesuffix(".py")
    if not folder:
        return stem, "", {}
    beside = {posixpath.basename(p).removesuffix(".py") for p in look.texts if posixpath.dirname(p) == folder} - {stem}
    imported = set(re.findall(r"(?m)^(?:from|import)\s+(\w+)", text))
    if imported & beside:  # it is written to be run in its folder
        return stem, folder, {}
    if folder.split("/")[0] == "src" and not any(file.path == "src/__init__.py" for file in look.files):
        return path.removeprefix("src/").removesuffix(".py").replace("/", "."), "", {"PYTHONPATH": "/app/src"}
    return path.removesuffix(".py").replace("/", "."), "", {}


def _application(text: str, kinds: tuple[str, ...]) -> tuple[str, bool] | None:
    """(name, whether it is a function that makes it) of an application object."""
    kind = "|".join(kinds)
    found = re.search(rf"(?m)^(\w+)\s*(?::\s*[\w.]+\s*)?=\s*(?:\w+\.)?(?:{kind})\(", text)
    if found is not None:
        return found[1], False
    if re.search(rf"\b(?:{kind})\(", text):
        made = re.search(r"(?m)^def\s+((?:create|make|get|build)_app\w*)\s*\(", text)
        if made is not None:
            called = re.search(rf"(?m)^(\w+)\s*=\s*{made[1]}\(", text)
            return (called[1], False) if called else (made[1], True)
    return None


def _port(look: Look, text: str, default: int) -> tuple[int, str]:
    for pattern in (
        r"\bport\s*[=:]\s*(?:int\()?\s*(\d{2,5})\b",
        r"[\"']\w*PORT[\"']\s*,\s*[\"']?(\d{2,5})\b",
        r"--port[\"'][^\n]*?default\s*=\s*[\"']?(\d{2,5})\b",
    ):
        if (found := re.search(pattern, text)) and 1 <= int(found[1]) <= 65535:
            return int(found[1]), "the program says so"
    for path, dockerfile in look.texts.items():
        found = re.search(r"(?im)^\s*EXPOSE\s+(\d{2,5})\b", dockerfile) if "dockerfile" in path.lower() else None
        if found and 1 <= int(found[1]) <= 65535:
            return int(found[1]), f"{path} exposes it"
    return default, "the usual one"


def _runs_itself(text: str, call: str) -> bool:
    return re.search(rf"__main__.*?\b{call}\s*\([^\n]*0\.0\.0\.0", text, re.DOTALL) is not None


def _asgi(look: Look, texts: Mapping[str, str], names: frozenset[str], model_store: str) -> Program | None:
    for path, text in texts.items():
        application = _application(text, _ASGI)
        if application is None:
            continue
        port, port_why = _port(look, text, _SERVERS["uvicorn"])
        kind = next(kind for kind in _ASGI if f"{kind}(" in text)
        if _runs_itself(text, r"uvicorn\.run"):
            return Program(("python", path), f"{path} makes a {kind} and runs it", port, port_why, path=path)
        module, folder, env = _module(path, text, look)
        name, factory = application
        line = ["uvicorn", f"{module}:{name}", "--host", "0.0.0.0", "--port", str(port)]
        line += ["--factory"] if factory else []
        line += ["--app-dir", folder] if folder else []
        notes: tuple[str, ...] = ()
        if "uvicorn" not in names and names:
            brings = any(extra in look.texts.get("requirements.txt", "") for extra in ("fastapi[", "uvicorn"))
            notes = () if brings else ("uvicorn is not in the requirements, and image.command runs it",)
        return Program(tuple(line), f"{path} makes a {kind}", port, port_why, env, notes=notes, path=path)
    return None


def _flask(look: Look, texts: Mapping[str, str], names: frozenset[str], model_store: str) -> Program | None:
    for path, text in texts.items():
        application = _application(text, ("Flask",))
        if application is None:
            continue
        module, folder, env = _module(path, text, look)
        name, factory = application
        called = f"{module}:{name}{'()' if factory else ''}"
        if "gunicorn" in names:
            port, why = _port(look, text, _SERVERS["gunicorn"])
            line = ["gunicorn", "--bind", f"0.0.0.0:{port}", *(["--chdir", folder] if folder else []), called]
            return Program(tuple(line), f"{path} makes a Flask, and gunicorn is installed", port, why, env, path=path)
        port, why = _port(look, text, _SERVERS["flask"])
        if _runs_itself(text, r"\w+\.run"):
            return Program(("python", path), f"{path} makes a Flask and runs it", port, why, env, path=path)
        target = posixpath.join(folder, module) if folder else module
        line = ["python", "-m", "flask", "--app", called if not folder else f"{target}:{name}", "run"]
        line += ["--host", "0.0.0.0", "--port", str(port)]
        note = "Flask's own server is for development: require gunicorn"
        return Program(tuple(line), f"{path} makes a Flask", port, why, env, notes=(note,), path=path)
    return None


def _torchserve(look: Look, texts: Mapping[str, str], names: frozenset[str], model_store: str) -> Program | None:
    archives = [file for file in look.files if file.name.endswith(".mar")]
    handlers = [p for p, text in texts.items() if re.search(r"\bts\.(torch_handler|context)\b|\bBaseHandler\b", text)]
    if not archives and not handlers and "torchserve" not in names:
        return None
    notes = []
    settings = look.texts.get("config.properties", "")
    if "inference_address" not in settings:
        notes.append("TorchServe listens on 127.0.0.1 only: inference_address=http://0.0.0.0:8080 in config.properties")
    if "torchserve" not in names:
        notes.append("torchserve is not in the requirements, and image.command runs it")
    found = re.search(r"(?m)^inference_address\s*=\s*\S+?:(\d{2,5})\s*$", settings)
    port, why = (int(found[1]), "config.properties says so") if found else (_SERVERS["torchserve"], "TorchServe's")
    if not archives:
        name = posixpath.basename(handlers[0]) if handlers else "handler.py"
        notes = [f"TorchServe needs a model archive: torch-model-archiver --handler {name} … --export-path model-store"]
        return Program((), "", port, why, apt=("default-jre-headless",), notes=tuple(notes))
    archive = archives[0]
    name = archive.name.removesuffix(".mar")
    line = ["torchserve", "--start", "--foreground", "--ncs", "--model-store", model_store.rstrip("/")]
    line += ["--models", f"{name}={archive.name}"]
    line += ["--ts-config", "/app/config.properties"] if settings else []
    reason = f"{archive.path} is a model archive of TorchServe"
    return Program(tuple(line), reason, port, why, apt=("default-jre-headless",), notes=tuple(notes))


def _procfile(look: Look, texts: Mapping[str, str], names: frozenset[str], model_store: str) -> Program | None:
    found = re.search(r"(?m)^web:\s*(\S.*?)\s*$", look.texts.get("Procfile", ""))
    if found is None:
        return None
    port, why = _port(look, found[1], _SERVERS["gunicorn"])
    try:
        line = shlex.split(found[1])
    except ValueError:
        line = []
    if not line or re.search(r"[$|&;<>`]", found[1]):
        line = ["sh", "-c", f"exec {found[1]}"]
    env = {"PORT": str(port)} if "$PORT" in found[1] or "${PORT" in found[1] else {}
    return Program(tuple(line), "Procfile says it", port, why, env)


def _others(look: Look, texts: Mapping[str, str], names: frozenset[str], model_store: str) -> Program | None:
    for path, text in texts.items():
        if "streamlit" in names and re.search(r"(?m)^import streamlit", text):
            line = ("streamlit", "run", path, "--server.address=0.0.0.0", "--server.port=8501")
            return Program(line, f"{path} is a Streamlit page", 8501, "Streamlit's", path=path)
        if "gradio" in names and re.search(r"\.launch\s*\(", text):
            env = {"GRADIO_SERVER_NAME": "0.0.0.0"}
            return Program(("python", path), f"{path} launches Gradio", 7860, "Gradio's", env, path=path)
    for path, text in texts.items():
        folder, _, name = path.rpartition("/")
        stem = name.removesuffix(".py")
        if name == "__main__.py" and folder:
            package = folder.removeprefix("src/").replace("/", ".")
            env = {"PYTHONPATH": "/app/src"} if folder.startswith("src/") else {}
            port, why = _listening(look, text)
            return Program(("python", "-m", package), f"{path} is there", port, why, env, path=path)
        if stem in _NAMES:
            port, why = _listening(look, text)
            env = {"PYTHONPATH": "/app/src"} if path.startswith("src/") and path.count("/") > 1 else {}
            return Program(("python", path), f"{path} is there", port, why, env, path=path)
    return None


def _listening(look: Look, text: str) -> tuple[int, str]:
    """The port, where something says one: a program that names no framework may listen nowhere."""
    port, why = _port(look, text, 0)
    return port, why if port else ""


# --------------------------------------------------------------------------------------------------------------- code


def code(look: Look, checkpoint: frozenset[str]) -> tuple[str, ...]:
    """Values of ``code.include``: modules and folders of code that stand in the project folder.

    Args:
        checkpoint: paths of the checkpoint's files, which are no code.
    """
    files = [file for file in look.files if not file.ignored and file.path not in checkpoint]
    modules = {f.name: f for f in files if not f.folder and f.name.endswith(".py") and _literal(f.name)}
    wanted = [name for name in sorted(modules) if not _NOT_SERVING.fullmatch(name.lower())]
    # What they import counts, whatever its name.
    waiting = list(wanted)
    while waiting:
        text = look.texts.get(waiting.pop(), "")
        for name in re.findall(r"(?m)^\s*(?:from|import)\s+(\w+)", text):
            if f"{name}.py" in modules and f"{name}.py" not in wanted:
                wanted.append(f"{name}.py")
                waiting.append(f"{name}.py")
    imported = {
        name
        for path, text in look.texts.items()
        if path.endswith(".py") and not _is_aside(path)
        for name in re.findall(r"(?m)^\s*(?:from|import)\s+(\w+)", text)
    }
    folders = []
    for folder in sorted({file.path.split("/")[0] for file in files if file.folder}):
        python = any(file.path.startswith(f"{folder}/") and file.name.endswith(".py") for file in files)
        aside = folder.lower() in _ASIDE and folder not in imported
        if _literal(folder) and not aside and (python or folder.lower() in _BESIDE):
            folders.append(folder)
    settings = {"config.properties", "config.yaml", "config.yml", "config.toml", "index_to_name.json", "labels.txt"}
    named = "\n".join(look.texts.get(path, "") for path in wanted)
    beside = [
        f.name
        for f in files
        if not f.folder
        and _literal(f.name)
        and (f.name in settings or (f.name.endswith((".json", ".yaml", ".yml", ".txt")) and f.name in named))
        and "requirements" not in f.name
    ]
    return (*sorted(wanted), *folders, *sorted(beside))


def _literal(name: str) -> bool:
    return all(c.isprintable() for c in name) and not any(c in name for c in "*?[")

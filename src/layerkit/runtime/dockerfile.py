"""The Dockerfile of a project: base, dependencies, checkpoint and code as stages of their own. Pure.

It is an ordinary Dockerfile, which builds without layerkit too:

    docker buildx build --build-context checkpoint=weights/ [--build-context wheels=wheelhouse/] .

No ``# syntax=`` line, which would have to be pulled, and no heredoc, which linters and parsers trip over.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from ..errors import ConfigurationError
from ..project import Project
from .requirements import Entry, Requirements, credentials

__all__ = ["CHECKPOINT_TARGET", "DEFAULT_EXCLUDES", "generate", "has_wildcard", "ignore_file"]

CHECKPOINT_TARGET = "/app/model/"
# Left out of the code of a generated Dockerfile, wherever it lies: never part of a program, often large or secret.
DEFAULT_EXCLUDES = ("**/.git", "**/__pycache__", "**/*.pyc", "**/.layerkit", "**/.venv")

_MOUNTED = "/tmp/layerkit"  # where requirements files and wheels are bound during a step; no layer has it
_SECRETS = "/run/secrets"
_UV = "/opt/uv"
_MAX_COPIES = 100  # COPY instructions of the code stage; overlayfs takes some 120 layers
_MAX_SCRIPT = 120_000  # bytes; Linux gives one argument 128 KiB (MAX_ARG_STRLEN)
_PLAIN_PATH = re.compile(r"[A-Za-z0-9@%+=:._/-]+")
_SAFE_WORD = re.compile(r"[A-Za-z0-9@%+=:,./_-]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# pip's own switches, given as variables: an older pip does not know them as flags.
_PIP = {
    "PIP_BREAK_SYSTEM_PACKAGES": "1",  # PEP 668: Debian's and Ubuntu's own Python
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_ROOT_USER_ACTION": "ignore",
}


def generate(
    project: Project,
    requirements: Requirements | None = None,
    *,
    includes: Mapping[str, Sequence[str]] | None = None,
    base_user: str = "",
) -> str:
    """The Dockerfile of *project*.

    Args:
        requirements: what ``dependencies.requirements`` says; None where there is none.
        includes: entry of ``code.include`` -> the paths that it matches, a folder with a ``/`` at its end
            (``context.find_includes``). An entry that is not in it is taken for a path, or for a pattern of COPY.
        base_user: the USER of the base image; packages are installed by root whoever it is.

    Raises:
        ConfigurationError: a value that no Dockerfile can express (a line break in a variable), or credentials
            that would end up in the image's history.
    """
    if project.image.dockerfile:
        raise ConfigurationError("image.dockerfile is set: there is no Dockerfile to generate")
    steps = _Steps(project, requirements, "" if base_user.partition(":")[0] in ("root", "0") else base_user)
    stages = [
        "# hadolint global ignore=DL3008,DL3013\n# Debian's and pip's own packages follow the base image: pin that.",
        *steps.stages(),
        *_checkpoint_stage(project),
        *_code_stage(project, includes or {}),
        _image_stage(project),
    ]
    return "\n\n".join(stages) + "\n"


def ignore_file(project: Project, requirements: Requirements | None = None, *, dockerignore: str = "") -> str:
    """The ``<Dockerfile>.dockerignore`` with which plain buildx sends no more than layerkit does.

    Args:
        requirements: as for ``generate``: its files are let in whatever else is said.
        dockerignore: the text of the project's own ``.dockerignore``.
    """
    lines = [*dockerignore.removeprefix("\ufeff").splitlines(), *project.code.exclude, *DEFAULT_EXCLUDES]
    if project.checkpoint is not None and not posixpath.isabs(project.checkpoint.path):
        lines.append(project.checkpoint.path)
    if project.dependencies.wheels:
        lines.append(project.dependencies.wheels)
    lines += [f"!{path}" for path in (requirements.files if requirements is not None else ())]
    return "\n".join(lines) + "\n"


def has_wildcard(path: str) -> bool:
    """Whether an entry of ``code.include`` is a glob."""
    return any(character in path for character in "*?[")


# ------------------------------------------------------------------------------------------------------ dependencies


class _Steps:
    """The stages up to ``dependencies``, and the words that their steps share."""

    def __init__(self, project: Project, requirements: Requirements | None, user: str = "") -> None:
        self.project = project
        self.user = user
        self.settings = project.dependencies
        self.requirements = requirements if requirements is not None and requirements.installed else None
        self.heavy: tuple[Entry, ...] = ()
        self.rest: tuple[Entry, ...] = ()
        if self.requirements is not None:
            self.heavy, self.rest = self.requirements.split(self.settings.separate)
        for path in self.requirements.files if self.requirements else ():
            if not _PLAIN_PATH.fullmatch(path):
                raise ConfigurationError(
                    f"{path!r}: a requirements file is mounted by name, which cannot have such characters",
                    hint="rename it: letters, digits, '.', '_', '-'",
                )
        self.uv = self.settings.installer == "uv" and self.requirements is not None
        self.wheels = bool(self.settings.wheels) and self.requirements is not None
        self.compiled = bool(self.settings.build_apt) and self.requirements is not None
        if self.uv and "pip.conf" in self.settings.secrets and not any(_for_uv(name) for name in self.settings.secrets):
            raise ConfigurationError(
                "dependencies.secrets: uv does not read pip.conf, and would ask the public index",
                hint="add a secret 'uv.toml', or UV_DEFAULT_INDEX from a variable",
            )

    def stages(self) -> Iterable[str]:
        yield f"# What everything starts from.\nFROM {self.project.image.base} AS base"
        if self.wheels:
            yield (
                "# The wheel folder: replaced by --build-context wheels=DIR, so that it is in no layer.\n"
                "FROM scratch AS wheels"
            )
        if self.uv:
            yield (
                "# The installer, in a stage of its own, so that it is not in the image.\n"
                + "\n".join(["FROM base AS uv", *self.as_root(), self.get_uv()])
            )
        if self.compiled:
            yield from self.build_stages()
        yield "\n".join(self.dependencies())

    def dependencies(self) -> Iterable[str]:
        yield "# Changes with the requirements; above the base, below checkpoint and code."
        yield "FROM base AS dependencies"
        # In the last stage it would be a layer above the checkpoint.
        yield f"WORKDIR {_word(self.project.image.workdir)}"
        if not self.settings.apt and self.requirements is None:
            return
        yield from self.as_root()
        if self.settings.apt:
            yield self.apt(self.settings.apt)
        if self.requirements is not None:
            yield from self.packages()
        if self.user:
            yield f"USER {_word(self.user)}"

    def as_root(self) -> Iterable[str]:
        """Some bases have another user (bitnami/pytorch, for one), who may not install."""
        return ["USER root"] if self.user else []

    def packages(self) -> Iterable[str]:
        if self.heavy:
            yield "# The heavy packages: a layer of their own, which only these lines change."
            yield self.install_built("build") if self.compiled else self.install_heavy()
        if self.rest:
            yield "# All the others." if self.heavy else "# The packages."
            yield self.install_built("build-rest" if self.heavy else "build") if self.compiled else self.install_rest()

    def build_stages(self) -> Iterable[str]:
        yield "# Compilers and headers: wheels are built here, and nothing of this is in the image.\n" + "\n".join(
            [
                "FROM base AS build",
                *self.as_root(),
                self.apt(self.settings.build_apt),
                self.build_heavy() if self.heavy else self.build_rest(),
            ]
        )
        if self.heavy and self.rest:
            yield (
                "# Apart from the heavy wheels, so that a new line in the requirements does not build those again.\n"
                "FROM build AS build-rest\n" + self.build_rest()
            )

    # ------------------------------------------------------------------------------------------------------- the steps

    def apt(self, packages: Sequence[str]) -> str:
        options = f" -o Acquire::https::CaInfo={_SECRETS}/ca" if "ca" in self.settings.secrets else ""
        names = " \\\n        ".join(_quote(name) for name in sorted(set(packages)))
        return self.run(
            f"apt-get{options} update",
            f"DEBIAN_FRONTEND=noninteractive apt-get{options} install -y --no-install-recommends \\\n        {names}",
            "apt-get clean",
            "rm -rf /var/lib/apt/lists/*",
        )

    def get_uv(self) -> str:
        mounts, flags = self.sources()
        command = " ".join(["pip install --no-cache-dir --no-compile", f"--target {_UV}", *flags, "uv"])
        return self.run(_with(_PIP, command), mounts=mounts, offline=self.wheels)

    def install_heavy(self) -> str:
        mounts, flags = self.sources()
        if self.hashed:
            flags = [*flags, "--require-hashes", "--no-deps"]  # a locked file lists all that it needs
        return self.run(
            self.piped(self.installer() + " ".join(["", *flags, "-r /dev/stdin"])),
            *self.tidied(),
            mounts=[*self.cache(), *mounts],
            offline=self.wheels,
        )

    def install_rest(self) -> str:
        mounts, flags = self.sources()
        if self.hashed and self.uv:
            flags = [*flags, "--require-hashes"]  # pip does it by itself
        return self.run(
            self.installer() + " ".join(["", *flags, f"-r {self.main_file}"]),
            *self.tidied(),
            mounts=[*self.cache(), *mounts, *self.files()],
            offline=self.wheels,
        )

    def build_heavy(self) -> str:
        mounts, flags = self.sources()
        if self.hashed:
            flags = [*flags, "--require-hashes", "--no-deps"]
        command = " ".join(["pip wheel --wheel-dir /wheels/separate", *flags, "-r /dev/stdin"])
        return self.run(self.piped(_with(_PIP, command)), mounts=[*self.pip_cache(), *mounts], offline=self.wheels)

    def build_rest(self) -> str:
        mounts, flags = self.sources()
        if self.heavy and not self.hashed:
            # A wheel that was built here has not the hash of its source: pip's own cache serves there.
            flags = [*flags, "--find-links /wheels/separate"]
        commands = [_with(_PIP, " ".join(["pip wheel --wheel-dir /wheels/rest", *flags, f"-r {self.main_file}"]))]
        if self.heavy:
            # Those are installed from the other folder.
            commands.append('for wheel in /wheels/separate/*.whl; do rm -f "/wheels/rest/${wheel##*/}"; done')
        return self.run(*commands, mounts=[*self.pip_cache(), *mounts, *self.files()], offline=self.wheels)

    def install_built(self, stage: str) -> str:
        """Install the wheels that *stage* built: hashes were checked there."""
        folder = "separate" if stage == "build" and self.heavy else "rest"
        mounts = [*self.uv_mount(), f"type=bind,from={stage},source=/wheels/{folder},target={_MOUNTED}/built"]
        variables = {} if self.uv else _PIP
        command = self.installer(variables=False) + " --no-index --no-deps"
        command += " --no-cache" if self.uv else " --no-cache-dir"
        # find, and not *.whl: there may be none, where all packages are heavy ones' own dependencies.
        return self.run(
            _with(variables, f"find {_MOUNTED}/built -name '*.whl' -exec {command} {{}} +"),
            *self.tidied(),
            mounts=mounts,
            offline=True,
            secrets=False,
        )

    # ------------------------------------------------------------------------------------------------------- the words

    @property
    def hashed(self) -> bool:
        return self.requirements is not None and self.requirements.hashed

    @property
    def main_file(self) -> str:
        assert self.requirements is not None
        return f"{_MOUNTED}/{self.requirements.files[0]}"

    def installer(self, *, variables: bool = True) -> str:
        if not self.uv:
            return _with(_PIP if variables else {}, "pip install")
        words = [
            f"{_UV}/bin/uv pip install --system --break-system-packages --link-mode=copy",
            "--compile-bytecode",  # as pip does: a server that may not write there compiles at each start
            *self.uv_options(),
        ]
        return " ".join(words)

    def tidied(self) -> list[str]:
        """What the installer leaves behind, removed."""
        return ["rm -f /tmp/uv-*.lock"] if self.uv else []

    def uv_options(self) -> Iterable[str]:
        """Options that uv takes on its command line only."""
        for option in self.requirements.options if self.requirements else ():
            name, _, value = option.partition(" ")
            if name == "--pre":
                yield "--prerelease=allow"
            elif name == "--trusted-host":
                yield f"--allow-insecure-host={_quote(value)}"

    def sources(self) -> tuple[list[str], list[str]]:
        """Mounts and flags that say where packages come from."""
        if not self.wheels:
            return [], []
        return (
            [f"type=bind,from=wheels,target={_MOUNTED}/wheels"],
            ["--no-index", f"--find-links {_MOUNTED}/wheels"],
        )

    def cache(self) -> list[str]:
        """Mounts of the installer and its cache, which is in no layer."""
        if not self.uv:
            return self.pip_cache()
        return ["type=cache,target=/root/.cache/uv", *self.uv_mount()]

    def pip_cache(self) -> list[str]:
        return ["type=cache,target=/root/.cache/pip"]

    def uv_mount(self) -> list[str]:
        return [f"type=bind,from=uv,source={_UV},target={_UV}"] if self.uv else []

    def files(self) -> list[str]:
        files = self.requirements.files if self.requirements else ()
        return [f"type=bind,source={path},target={_MOUNTED}/{path}" for path in files]

    def piped(self, command: str) -> str:
        """*command* with the heavy lines on its standard input: only a change of these lines changes the step."""
        assert self.requirements is not None
        lines = [*self._options(), *self._heavy_lines()]
        for line in lines:
            if credentials(line):
                raise ConfigurationError(
                    "requirements: a URL with credentials would end up in the image's history",
                    hint="write ${TOKEN} there, and give TOKEN under [dependencies.secrets]",
                )
        text = " \\\n        ".join(_quote(line) for line in lines)
        if len(text) > _MAX_SCRIPT:
            raise ConfigurationError(
                "dependencies.separate: too many packages match for one step",
                hint="name only the heavy ones, such as torch and nvidia-*",
            )
        return f"printf '%s\\n' \\\n        {text} \\\n    | {command}"

    def _options(self) -> Iterable[str]:
        for option in self.requirements.options if self.requirements else ():
            name = option.partition(" ")[0]
            # uv takes these on its command line, see uv_options; --require-hashes is there already.
            if name != "--require-hashes" and not (self.uv and name in ("--pre", "--trusted-host")):
                yield option

    def _heavy_lines(self) -> Iterable[str]:
        assert self.requirements is not None
        constraints = self.requirements.constraints(frozenset(entry.name for entry in self.heavy))
        constrained = {entry.name for entry in constraints}
        for entry in self.heavy:
            if not (entry.bare and entry.name in constrained):
                yield entry.text
        yield from (entry.text for entry in constraints)

    def run(self, *commands: str, mounts: Sequence[str] = (), offline: bool = False, secrets: bool = True) -> str:
        words = ["--network=none"] if offline else []
        words += [f"--mount={mount}" for mount in mounts]
        variables: dict[str, str] = {}
        for name in sorted(self.settings.secrets) if secrets else ():
            mount, env = _secret(name)
            words.append(f"--mount={mount}")
            variables |= env
        # Exported, since they are for all commands of the step.
        lines = [f"export {_env(variables).strip()}", *commands] if variables else list(commands)
        body = " \\\n    && ".join(lines)
        text = "RUN " + " \\\n    ".join([*words, body])
        # hadolint wants pipefail, which dash has not; printf does not fail.
        return "# hadolint ignore=DL4006\n" + text if "    | " in text else text


def _for_uv(secret: str) -> bool:
    return secret == "uv.toml" or secret.startswith("UV_")


def _secret(name: str) -> tuple[str, dict[str, str]]:
    """The mount of a secret, and the variables that tell tools where it is. Its value is in neither."""
    path = f"{_SECRETS}/{name}"
    mount = f"type=secret,id={name},target={path},required=true"
    if name == "pip.conf":
        return mount, {"PIP_CONFIG_FILE": path}
    if name == "uv.toml":
        return mount, {"UV_CONFIG_FILE": path}
    if name == "netrc":
        return f"type=secret,id={name},target=/root/.netrc,required=true", {"NETRC": "/root/.netrc"}
    if name == "ca":
        # apt reads it as user _apt, and a certificate is no secret in itself.
        variables = ("CURL_CA_BUNDLE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
        return f"{mount},mode=0444", dict.fromkeys(variables, path)
    if _VARIABLE.fullmatch(name):
        return f"type=secret,id={name},env={name},required=true", {}
    return mount, {}


# -------------------------------------------------------------------------------------------- checkpoint, code, image


def _checkpoint_stage(project: Project) -> Iterable[str]:
    if project.checkpoint is not None and project.checkpoint.placement == "layer":
        yield (
            "# The weights: replaced by --build-context checkpoint=DIR, so that they change without the rest.\n"
            "FROM scratch AS checkpoint"
        )


def _code_stage(project: Project, includes: Mapping[str, Sequence[str]]) -> Iterable[str]:
    if not project.code.include:
        return
    lines = [line for entry in project.code.include for line in _copies(entry, includes.get(entry), project)]
    lines = list(dict.fromkeys(lines))
    if len(lines) > _MAX_COPIES:
        raise ConfigurationError(
            f"code.include: {len(lines)} COPY instructions would be needed, and {_MAX_COPIES} is the limit",
            hint="include the folder, and leave out what is not code with code.exclude",
        )
    yield (
        "# The code, gathered here so that it is one layer however many lines there are.\nFROM scratch AS code\n"
        + "\n".join(lines)
    )


def _copies(entry: str, matches: Sequence[str] | None, project: Project) -> Iterable[str]:
    target = PurePosixPath(project.code.target)
    if matches is None:
        path = posixpath.normpath(entry)
        if not has_wildcard(path):
            yield _copy([path], str(target / path) + ("/" if path == "." else ""))
            return
        folder, _, last = path.rpartition("/")
        if has_wildcard(folder) or "**" in last:
            raise ConfigurationError(
                f"code.include: COPY knows no {entry!r}", hint="only the last part of a path may have wildcards"
            )
        yield _copy([path], str(target / folder) + "/", literal=False)
        return
    files: dict[str, list[str]] = {}
    for match in matches:
        path = posixpath.normpath(match)
        if match.endswith("/") or path == "." or len(matches) == 1:
            yield _copy([path], str(target / path) + ("/" if path == "." else ""))
        else:
            files.setdefault(posixpath.dirname(path), []).append(path)
    for folder, paths in files.items():
        yield _copy(paths, str(target / folder).rstrip("/") + "/")


def _copy(sources: Sequence[str], target: str, *, literal: bool = True) -> str:
    patterns = [_as_pattern(path) if literal else path for path in sources]
    if all(re.fullmatch(r"[A-Za-z0-9@%+=:,./_*?-]+", word) for word in (*patterns, target)):
        return " ".join(["COPY", *patterns, target])
    return "COPY " + _json(_expanded(_no_break(word, "code.include")) for word in (*patterns, target))


def _as_pattern(path: str) -> str:
    """*path* as a pattern that matches it alone. BuildKit takes ``\\[`` for no wildcard, and then as it stands."""
    if not has_wildcard(path):
        return path
    return re.sub(r"[*?\[]", r"[\g<0>]", path.replace("\\", "\\\\"))


def _expanded(text: str) -> str:
    """*text* as BuildKit's word expansion takes it, where no quotes are around it."""
    return re.sub(r"""([\\$"'])""", r"\\\1", text)


def _image_stage(project: Project) -> str:
    image = project.image
    # Nothing of this is a layer, and the linked layers below depend on none of it.
    lines = ["# The image. Linked layers: each stays as it is when one under it changes.", "FROM dependencies AS image"]
    lines += _pairs("ENV", image.env)
    lines += _pairs("LABEL", image.labels)
    if image.expose:
        lines.append("EXPOSE " + " ".join(str(port) for port in sorted(set(image.expose))))
    if image.user:
        if re.search(r"[\s\x00-\x1f\x7f]", image.user):
            raise ConfigurationError(f"image.user: {image.user!r} is no user", hint="a name, or uid[:gid]")
        lines.append(f"USER {_word(image.user)}")
    if image.entrypoint:
        lines.append(f"ENTRYPOINT {_json(image.entrypoint)}")
    if image.command:
        lines.append(f"CMD {_json(image.command)}")
    checkpoint = project.checkpoint
    if checkpoint is not None and checkpoint.placement == "layer":
        mode = f" --chmod={checkpoint.chmod}" if checkpoint.chmod else ""
        target = (checkpoint.target or CHECKPOINT_TARGET).rstrip("/") + "/"
        lines.append(_copy_from(f"--chown={_owner(checkpoint.chown)}{mode} --from=checkpoint", ".", target))
    if project.code.include:
        folder = project.code.target.rstrip("/") + "/"
        lines.append(_copy_from("--from=code", folder, folder))
    return "\n".join(lines)


def _copy_from(flags: str, source: str, target: str) -> str:
    if _SAFE_WORD.fullmatch(target):
        return f"COPY --link {flags} {source} {target}"
    return f"COPY --link {flags} " + _json([_expanded(_as_pattern(source)), _expanded(target)])


def _owner(text: str | None) -> str:
    """uid:gid of ``uid[:gid]`` or ``root``; a group that is left out is the user's number, as COPY has it."""
    user, _, group = (text or "0:0").replace("root", "0").partition(":")
    return f"{user}:{group or user}"


def _pairs(instruction: str, values: Mapping[str, str]) -> Iterable[str]:
    if values:
        pairs = [
            f"{_double(name, f'image.{name}')}={_double(value, name, always=True)}"
            for name, value in sorted(values.items())
        ]
        yield f"{instruction} " + " \\\n    ".join(pairs)


def _double(text: str, where: str, *, always: bool = False) -> str:
    """*text* in double quotes, so that BuildKit's word expansion gives back exactly it (``shell/lex.go``)."""
    _no_break(text, where)
    if not always and _SAFE_WORD.fullmatch(text) and "=" not in text:
        return text
    return '"' + re.sub(r'(["\\$])', r"\\\1", text) + '"'


def _word(text: str) -> str:
    return text if _SAFE_WORD.fullmatch(text) else _double(text, "image")


def _no_break(text: str, where: str) -> str:
    if "\n" in text or "\0" in text:
        raise ConfigurationError(
            f"{where}: a Dockerfile cannot express a line break there",
            hint="put the text in a file of the code, or write it encoded (base64)",
        )
    return text


def _json(words: Iterable[str]) -> str:
    return json.dumps(list(words), ensure_ascii=False)


def _quote(text: str) -> str:
    """*text* as one word of sh; double quotes only where single ones would need a detour."""
    if _SAFE_WORD.fullmatch(text):
        return text
    if "'" not in text:
        return f"'{text}'"
    if not re.search(r'["$`\\!]', text):
        return f'"{text}"'
    return "'" + text.replace("'", "'\"'\"'") + "'"


def _env(variables: Mapping[str, str]) -> str:
    return "".join(f"{name}={value} " for name, value in variables.items())


def _with(variables: Mapping[str, str], command: str) -> str:
    """*command* with *variables*, on a line of their own."""
    return f"{_env(variables)}\\\n    {command}" if variables else command

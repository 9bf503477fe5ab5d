"""The stages of a generated Dockerfile up to ``dependencies``: base, uv, wheels, heavy packages, the others. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ..errors import ConfigurationError
from ..project import Project
from .requirements import Entry, Requirements, credentials
from .words import env, quote, with_env, word

__all__ = ["Steps"]

_MOUNTED = "/tmp/layerkit"  # where requirements files and wheels are bound during a step; no layer has it
_SECRETS = "/run/secrets"
_UV = "/opt/uv"
_MAX_SCRIPT = 120_000  # bytes; Linux gives one argument 128 KiB (MAX_ARG_STRLEN)
_PLAIN_PATH = re.compile(r"[A-Za-z0-9@%+=:._/-]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# pip's own switches, given as variables: an older pip does not know them as flags.
_PIP = {
    "PIP_BREAK_SYSTEM_PACKAGES": "1",  # PEP 668: Debian's and Ubuntu's own Python
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_ROOT_USER_ACTION": "ignore",
}


class Steps:
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
        yield f"WORKDIR {word(self.project.image.workdir)}"
        if not self.settings.apt and self.requirements is None:
            return
        yield from self.as_root()
        if self.settings.apt:
            yield self.apt(self.settings.apt)
        if self.requirements is not None:
            yield from self.packages()
        if self.user:
            yield f"USER {word(self.user)}"

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
        names = " \\\n        ".join(quote(name) for name in sorted(set(packages)))
        return self.run(
            f"apt-get{options} update",
            f"DEBIAN_FRONTEND=noninteractive apt-get{options} install -y --no-install-recommends \\\n        {names}",
            "apt-get clean",
            "rm -rf /var/lib/apt/lists/*",
        )

    def get_uv(self) -> str:
        mounts, flags = self.sources()
        command = " ".join(["pip install --no-cache-dir --no-compile", f"--target {_UV}", *flags, "uv"])
        return self.run(with_env(_PIP, command), mounts=mounts, offline=self.wheels)

    def install_heavy(self) -> str:
        mounts, flags = self.sources()
        if self.hashed:
            flags = [*flags, "--require-hashes", "--no-deps"]  # a locked file lists all that it needs
        return self.run(
            self.piped(self.installer() + " ".join(["", *flags, "-r /dev/stdin"]), self._heavy_lines()),
            *self.tidied(),
            mounts=[*self.cache(), *mounts],
            offline=self.wheels,
        )

    def install_rest(self) -> str:
        mounts, flags = self.sources()
        if self.hashed and self.uv:
            flags = [*flags, "--require-hashes"]  # pip does it by itself
        if self.hashed and self.inline:
            flags = [*flags, "--no-deps"]  # the lock lists all, and what it leaves out is not for this image
        return self.run(
            self.from_file(self.installer() + " ".join(["", *flags, f"-r {self.main_file}"])),
            *self.tidied(),
            mounts=[*self.cache(), *mounts, *self.files()],
            offline=self.wheels,
        )

    def build_heavy(self) -> str:
        mounts, flags = self.sources()
        if self.hashed:
            flags = [*flags, "--require-hashes", "--no-deps"]
        command = " ".join(["pip wheel --wheel-dir /wheels/separate", *flags, "-r /dev/stdin"])
        step = self.piped(with_env(_PIP, command), self._heavy_lines())
        return self.run(step, mounts=[*self.pip_cache(), *mounts], offline=self.wheels)

    def build_rest(self) -> str:
        mounts, flags = self.sources()
        if self.heavy and not self.hashed:
            # A wheel that was built here has not the hash of its source: pip's own cache serves there.
            flags = [*flags, "--find-links /wheels/separate"]
        if self.hashed and self.inline:
            flags = [*flags, "--no-deps"]
        command = with_env(_PIP, " ".join(["pip wheel --wheel-dir /wheels/rest", *flags, f"-r {self.main_file}"]))
        commands = [self.from_file(command)]
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
            with_env(variables, f"find {_MOUNTED}/built -name '*.whl' -exec {command} {{}} +"),
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
    def inline(self) -> bool:
        return self.requirements is not None and self.requirements.inline

    @property
    def main_file(self) -> str:
        assert self.requirements is not None
        return "/dev/stdin" if self.inline else f"{_MOUNTED}/{self.requirements.files[0]}"

    def from_file(self, command: str) -> str:
        """*command*, which reads ``main_file``; where there is no such file, with all lines on its standard input."""
        if not self.inline:
            return command
        assert self.requirements is not None
        # A complete lock is installed without looking for more: what the step before has is not said again.
        entries = self.rest if self.hashed else self.requirements.installed
        return self.piped(command, (entry.text for entry in entries))

    def installer(self, *, variables: bool = True) -> str:
        if not self.uv:
            return with_env(_PIP if variables else {}, "pip install")
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
                yield f"--allow-insecure-host={quote(value)}"

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

    def piped(self, command: str, requirements: Iterable[str]) -> str:
        """*command* with *requirements* on its standard input: only a change of these lines changes the step."""
        lines = [*self._options(), *requirements]
        for line in lines:
            if credentials(line):
                raise ConfigurationError(
                    "requirements: a URL with credentials would end up in the image's history",
                    hint="write ${TOKEN} there, and give TOKEN under [dependencies.secrets]",
                )
        text = " \\\n        ".join(quote(line) for line in lines)
        if len(text) > _MAX_SCRIPT:
            raise ConfigurationError(
                "dependencies: too many packages match for one step",
                hint="name only the heavy ones in dependencies.separate, such as torch and nvidia-*"
                if not self.inline
                else "write a requirements file: uv export --frozen --no-dev --no-emit-project -o requirements.txt",
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
            mount, told = _secret(name)
            words.append(f"--mount={mount}")
            variables |= told
        # Exported, since they are for all commands of the step.
        lines = [f"export {env(variables).strip()}", *commands] if variables else list(commands)
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

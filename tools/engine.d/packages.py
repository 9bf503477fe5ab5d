"""The programs we need, from the distribution's own packages, with apt's configuration left as it was.

apt works here with sources, lists, preferences and archives of its own under `.engine/apt`, derived when it runs from
the machine's sources: same mirror, and where the machine's release is too old for BuildKit's CLI plugin, a newer suite
beside it, pinned so low that only what is asked for by name comes from it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from core import ENGINE, Cannot, State, folder, locked, phase, run, say

# Programs and plugins are looked for where packages put them; a `docker` elsewhere on PATH may be a bare client.
PROGRAM_FOLDERS = ("/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin", "/usr/local/sbin")
PLUGIN_FOLDERS = (
    "/usr/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/local/lib/docker/cli-plugins",
)

# Program -> package. Debian splits docker-cli from docker.io, Ubuntu has it inside; unknown packages are left out.
DAEMON = {
    "dockerd": "docker.io",
    "docker": "docker-cli",
    "docker-buildx": "docker-buildx",
    "containerd": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "ip": "iproute2",
}
REGISTRY = {"docker-registry": "docker-registry"}
BASE = {"debootstrap": "debootstrap"}
# Readers and peers for tests and benchmarks: without them those say what they could not compare.
EXTRAS = {name: name for name in ("skopeo", "umoci", "socat", "curl", "crane", "oras", "nginx")}

# For the tests of pages. Any of these will do; where there is none, the package of the first is installed.
BROWSERS = (
    "chromium-headless-shell",
    "chrome-headless-shell",
    "chromium",
    "google-chrome",
    "chromium-browser",
    "chrome",
)

# Where Debian's release has no docker-buildx (12 and older), these suites do, oldest libc demand first seen to install.
NEWER_SUITES = ("forky", "trixie")
# These must not come from the newer suite, whose runc wants a newer libc than the release has, or need not.
# The registry should: the release's was built before Go's SHA-256 used the processor's own instructions (1.21), and
# takes all pushes half as fast.
FROM_OWN_SUITE = {"runc", "iptables", "iproute2", "debootstrap", "skopeo", "umoci", "socat", "curl",
                  "nginx", "chromium-headless-shell"}  # fmt: skip


def program(name: str) -> str | None:
    """The full path of a program, or of the buildx plugin, where distribution packages install it."""
    where = PLUGIN_FOLDERS if name == "docker-buildx" else PROGRAM_FOLDERS
    return shutil.which(name, path=os.pathsep.join(where))


def missing(*groups: dict[str, str]) -> list[str]:
    """Packages of the programs that are not there. Only a `docker` in /usr/bin counts: elsewhere it may be bare."""
    wanted = {name: package for group in groups for name, package in group.items()}
    return sorted(
        {
            package
            for name, package in wanted.items()
            if (shutil.which("docker", path="/usr/bin") if name == "docker" else program(name)) is None
        }
    )


def missing_extras() -> list[str]:
    """Packages that only tests and benchmarks want."""
    browser = any(shutil.which(name) for name in BROWSERS)
    return sorted([*missing(EXTRAS), *([] if browser else [BROWSERS[0]])])


def os_release() -> dict[str, str]:
    """os-release(5) as a dictionary; empty where there is none."""
    try:
        lines = Path("/etc/os-release").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split("=", 1) for line in lines if "=" in line)
    return {name: value.strip("\"'") for name, value in pairs}


def is_debian_like() -> bool:
    return os_release().get("ID") in {"debian", "ubuntu"} and shutil.which("apt-get") is not None


@dataclass(frozen=True)
class Source:
    """One entry of sources.list(5), as far as we need it."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()  # deb822 fields: Signed-By, Trusted, …

    def deb822(self) -> str:
        fields = [("Types", "deb"), ("URIs", self.uri), ("Suites", " ".join(self.suites))]
        fields += [("Components", " ".join(self.components)), *self.options]
        return "".join(f"{name}: {value}\n" for name, value in fields) + "\n"


def machine_sources() -> list[Source]:
    """The machine's own entries for its release (updates and security too); those of third parties are left out."""
    names = {os_release().get("VERSION_CODENAME", "?"), "stable", "oldstable", "testing", "unstable", "sid"}
    etc = Path("/etc/apt")
    found: list[Source] = []
    for path in [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]:
        if path.suffix == ".sources":
            entries = parse_deb822(path.read_text())
        elif path.suffix == ".list" and path.is_file():
            entries = parse_one_line(path.read_text())
        else:
            continue
        for entry in entries:
            suites = tuple(suite for suite in entry.suites if re.split(r"[-/]", suite)[0] in names)
            if suites and "main" in entry.components:
                found.append(replace(entry, suites=suites))
    return found


def parse_deb822(text: str) -> list[Source]:
    """The `deb` stanzas of a .sources file. Continuation lines (an inline key) are kept with their field."""
    found = []
    without_comments = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", without_comments):
        fields: dict[str, str] = {}
        for name, value in re.findall(r"^([A-Za-z0-9-]+):[ \t]*(.*(?:\n[ \t].*)*)", stanza, re.MULTILINE):
            fields[name.lower()] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
            continue
        options = tuple(
            (name.title(), fields[name]) for name in ("signed-by", "trusted", "check-valid-until") if name in fields
        )
        suites, components = tuple(fields["suites"].split()), tuple(fields.get("components", "").split())
        found += [Source(uri, suites, components, options) for uri in fields.get("uris", "").split()]
    return found


def parse_one_line(text: str) -> list[Source]:
    """The `deb` lines of a .list file."""
    found = []
    for line in text.splitlines():
        match = re.match(
            r"deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<components>[^#]+)", line
        )
        if match:
            pairs = [word.split("=", 1) for word in (match["options"] or "").split() if "=" in word]
            options = tuple((name.title(), value) for name, value in pairs if name in {"signed-by", "trusted"})
            found.append(Source(match["uri"], (match["suite"],), tuple(match["components"].split()), options))
    return found


def main_source(sources: Sequence[Source]) -> Source:
    """The entry of the release itself, whose mirror also holds the other suites."""
    for source in sources:
        if any("-" not in suite and "/" not in suite for suite in source.suites):
            return source
    raise Cannot("no `deb` entry for this release in the machine's apt sources")


class Apt:
    """apt-get with its own state under .engine/apt."""

    def __init__(self, newer: str | None) -> None:
        self.newer = newer
        self.home = folder("apt")
        self.log = folder("log") / "apt.log"
        parts, preferences = self.home / "sources.list.d", self.home / "preferences.d"
        for path in (parts, preferences, self.home / "lists/partial", self.home / "archives/partial"):
            path.mkdir(parents=True, exist_ok=True)
        sources = machine_sources()
        text = "".join(source.deb822() for source in sources)
        if newer:
            text += replace(main_source(sources), suites=(newer,), components=("main",)).deb822()
            pin = f"Package: *\nPin: release n={newer}\nPin-Priority: 50\n"
            (preferences / "newer").write_text(pin)
        (parts / "engine.sources").write_text(text)

    def __call__(self, *words: str, check: bool = True) -> tuple[int, str]:
        home = self.home
        options = {
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": home / "sources.list.d",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": home / "preferences.d",
            "Dir::State::lists": home / "lists",
            "Dir::Cache::archives": home / "archives",
            "Dir::Cache::pkgcache": home / "pkgcache.bin",
            "Dir::Cache::srcpkgcache": home / "srcpkgcache.bin",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            # The folders above may lie where apt's own user cannot look, in root's home for one.
            "APT::Sandbox::User": "root",
            "APT::Update::Error-Mode": "any",
            "DPkg::Lock::Timeout": "600",
            "Dpkg::Use-Pty": "0",
        }
        flags = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        flags += ["-o", "Dpkg::Options::=--force-confold", "-o", "Dpkg::Options::=--force-unsafe-io"]
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_SUSPEND": "1", "LC_ALL": "C"}
        done = run([words[0], *flags, *words[1:]], env=env, check=check, log=self.log, name=" ".join(words))
        return done.returncode, done.stdout

    def known(self, packages: Sequence[str]) -> dict[str, str]:
        """Package -> the form to ask for it (`name` or `name/suite`), for those that these sources have."""
        table = self("apt-cache", "madison", *packages, check=False)[1]
        forms = {}
        for package in packages:
            suites = re.findall(rf"^\s*{re.escape(package)} \|[^|]*\|\s*\S+ (\S+)/", table, re.MULTILINE)
            own = [suite for suite in suites if suite != self.newer]
            take_own = own and (package in FROM_OWN_SUITE or self.newer is None)
            if not take_own and self.newer and self.newer in suites:
                forms[package] = f"{package}/{self.newer}"
            elif own:
                forms[package] = package
        return forms

    def can_install(self, forms: Sequence[str]) -> bool:
        """True when apt sees a way that removes nothing."""
        return (
            self("apt-get", "install", "-s", "-y", "--no-remove", "--no-install-recommends", *forms, check=False)[0]
            == 0
        )

    def install(self, forms: Sequence[str]) -> None:
        self("apt-get", "install", "-y", "--no-remove", "--no-install-recommends", *forms)


@contextlib.contextmanager
def services_stay_off() -> Iterator[None]:
    """While this lasts, packages may not start services: invoke-rc.d and deb-systemd-invoke ask policy-rc.d first.

    What was there before is put back, also when an earlier run was killed in the middle.
    """
    policy = Path("/usr/sbin/policy-rc.d")
    ours = "#!/bin/sh\n# layerkit's tools/engine, while it installs packages\nexit 101\n"
    aside = policy.with_name("policy-rc.d.layerkit-aside")

    def put_back() -> None:
        if policy.is_file() and policy.read_text() == ours:
            policy.unlink()
        if aside.exists() or aside.is_symlink():
            aside.replace(policy)

    put_back()
    if policy.exists() or policy.is_symlink():
        policy.replace(aside)
    try:
        policy.write_text(ours)
        policy.chmod(0o755)
        yield
    finally:
        put_back()


def install(
    state: State,
    required: Sequence[str],
    extras: Sequence[str] = (),
    *,
    first: Sequence[str] = (),
    then: Callable[[], object] = lambda: None,
) -> None:
    """Install packages, the extras only where it is possible. Nothing is done when nothing is missing.

    `first` are those of `required` that something else waits for: `then` is called as soon as they are there.
    """
    tried = state.get("extras_tried")
    if not required and set(extras) <= set(tried if isinstance(tried, list) else ()):
        then()
        return
    what = ", ".join([*required, *extras])
    if not is_debian_like():
        raise Cannot(f"not a Debian or Ubuntu machine: install Docker with its buildx plugin and start it (or {what})")
    if os.geteuid() != 0:
        raise Cannot(f"neither root nor sudo: have an administrator install {what}, or Docker with its buildx plugin")
    # Two clones may come here at the same time: apt would wait for its own lock, policy-rc.d has none.
    with locked(Path("/run/layerkit-engine.lock"), "another clone that installs packages"), services_stay_off():
        apt, forms = sources_that_have(required, extras)
        # docker-cli is the one package whose absence is no loss: Ubuntu's docker.io holds it.
        needed = [forms[package] for package in required if package in forms]
        optional = [forms[package] for package in extras if package in forms]
        if not apt.can_install([*needed, *optional]):
            optional = [form for form in optional if apt.can_install([*needed, form])]
        for package in extras:
            if forms.get(package) not in optional:
                say(f"warning: optional package {package} cannot be installed here")
        if first:
            apt.install([forms[package] for package in first])
        then()
        if needed or optional:
            with phase(f"packages ({len(needed) + len(optional)})"):
                apt.install([*needed, *optional])
    state.set(extras_tried=[*extras])
    shutil.rmtree(ENGINE / "apt", ignore_errors=True)  # some 100 MB that nothing needs any more


def sources_that_have(required: Sequence[str], extras: Sequence[str]) -> tuple[Apt, dict[str, str]]:
    """apt with the sources from which all that is required can be installed, and how to ask for each package."""
    release = os_release()
    old = release.get("ID") == "debian" and int(release.get("VERSION_ID", "99").split(".")[0]) < 13
    for newer in NEWER_SUITES if old else (None,):
        apt = Apt(newer)
        with phase(f"package lists{f' ({newer} beside the release)' if newer else ''}"):
            status, text = apt("apt-get", "update", check=False)
            forms = apt.known([*required, *extras])
        lost = [package for package in required if package not in forms and package != "docker-cli"]
        needed = [forms[package] for package in required if package in forms]
        if status == 0 and not lost and apt.can_install(needed):
            return apt, forms
        reason = text.strip().splitlines()[-1] if status else f"no way to install {' '.join(lost or needed)}"
        say(f"{newer or 'the release'}: {reason}")
    raise Cannot(
        "apt finds no way to install what is needed, see .engine/log/apt.log; "
        "or install Docker 25 or newer with its buildx plugin yourself and start it: it is used as it is"
    )

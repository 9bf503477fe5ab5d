"""A base image like python:slim, made with debootstrap where no public registry is in reach.

The finished blobs are cached, so that `up` after `down --purge`, or in a fresh clone, pushes in a second what took a
minute to make, and so that the digest stays the same.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import packages
from core import Cannot, EngineError, State, folder, phase, run

import registry

VERSION = "2"  # raise it when the recipe below changes
INCLUDE = ("python3", "python3-pip", "python3-venv", "ca-certificates")
REPOSITORY = "layerkit/python"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"

# What python:slim has not either: caches, lists, documentation (licences stay), translations. Bytecode stays: without
# it the first `pip install` of a Dockerfile would write it, timestamps and all, into its own layer.
LEFT_OUT = (
    "./var/lib/apt/lists/*", "./var/cache/*/*", "./var/log/*", "./tmp/*", "./run/*", "./dev/*", "./proc/*", "./sys/*",
    "./usr/share/man/*", "./usr/share/info/*", "./usr/share/locale/*", "./usr/share/lintian/*",
    "EXTERNALLY-MANAGED",
)  # fmt: skip


def suite() -> str:
    """Debian 12 has Python 3.11, as python:3.11-slim; Ubuntu's mirrors hold only Ubuntu, whose own release is taken."""
    release = packages.os_release()
    return "bookworm" if release.get("ID") == "debian" else release.get("VERSION_CODENAME", "")


def cache_folder() -> Path:
    """Where the finished image stays for the next `up`, of any clone: keyed by all that it is made from."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "layerkit-engine"
    machine = os.uname().machine
    key = hashlib.sha256(json.dumps([VERSION, suite(), INCLUDE, LEFT_OUT, machine]).encode()).hexdigest()[:12]
    return cache / f"base-{suite()}-{key}"


def is_made() -> bool:
    return (cache_folder() / "manifest.json").exists()


def provide(state: State, client: str, *, public: bool) -> None:
    """Have the base image in the registry and its reference in the state.

    `public` allows one bounded try for the real python:3.11-slim, with a Docker that was there before.
    """
    if not is_made():
        if public and copy_public(state, client):
            return
        if not packages.is_debian_like() or os.geteuid() != 0:
            raise Cannot("no base image: needs a reachable public registry, or Debian/Ubuntu and root for debootstrap")
        packages.install(state, packages.missing(packages.BASE))
        make()
    with phase("base image: push"):
        push(state, cache_folder())


def copy_public(state: State, client: str) -> bool:
    name = "python:3.11-slim"
    if run([client, "buildx", "imagetools", "inspect", name], check=False, timeout=20).returncode != 0:
        return False
    with phase(f"base image: {name} from its registry"):
        reference = f"{registry.address(state)}/{REPOSITORY}:3.11-slim"
        for words in (["pull", "--quiet", name], ["tag", name, reference], ["push", "--quiet", reference]):
            if run([client, *words], check=False, timeout=600).returncode != 0:
                return False
    state.set(base=reference)
    return True


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A folder to unpack in: in memory where there is plenty, since dpkg syncs after every package."""
    work = folder("tmp") / "rootfs"
    run(["umount", "--lazy", work], check=False)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    available = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text())
    in_memory = available is not None and int(available[1]) > 3_000_000
    in_memory = (
        in_memory
        and run(["mount", "-t", "tmpfs", "-o", "size=1500m,mode=755", "layerkit-base", work], check=False).returncode
        == 0
    )
    try:
        yield work
    finally:
        if in_memory:
            run(["umount", "--lazy", work], check=False)
        shutil.rmtree(work, ignore_errors=True)


def make() -> None:
    """debootstrap, the touches that make it look like python:slim, one gzip layer, config and manifest."""
    with phase("base image: debootstrap"):
        make_in(cache_folder())


def make_in(target: Path) -> None:
    sources = packages.machine_sources()
    mirror = packages.main_source(sources)
    components = ["main"] + (["universe"] if "universe" in mirror.components else [])
    with workplace() as root:
        words = [
            "debootstrap",
            "--variant=minbase",
            f"--include={','.join(INCLUDE)}",
            f"--components={','.join(components)}",
        ]
        if dict(mirror.options).get("Trusted", "").lower() == "yes":
            words.append("--no-check-gpg")
        env = {**os.environ, "PATH": PATH, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
        run([*words, suite(), root, mirror.uri], env=env, log=folder("log") / "debootstrap.log")
        version = finish(root, sources)
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_name(f"{target.name}.{os.getpid()}")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        try:
            write_image(root, fresh, version)
            if not is_made():  # another clone may have been faster, and its image may be in use
                shutil.rmtree(target, ignore_errors=True)
                fresh.rename(target)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


def finish(root: Path, sources: list[packages.Source]) -> str:
    """Make the tree look like python:slim; returns Python's version, as "3.11"."""
    version = re.search(r"3\.\d+", str((root / "usr/bin/python3").readlink()))
    if version is None:
        raise EngineError("the new root has no python3")
    for name, real in (("python", "python3"), ("python3", "python3"), ("pip", "pip3"), ("pip3", "pip3")):
        link = root / "usr/local/bin" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(f"/usr/bin/{real}")
    # apt works in a RUN step with the machine's mirror. Entries for the machine's own release count only if that is
    # the release inside; a signing key by path counts only if it is inside too.
    entries = [source for source in sources if any(suite() in name for name in source.suites)]
    main = packages.main_source(sources)
    if not entries:
        entries = [packages.Source(main.uri, (suite(),), ("main",))]
    lines = []
    for entry in entries:
        options = dict(entry.options)
        key = options.get("Signed-By", "")
        words = [f"signed-by={key}"] if key.startswith("/") and (root / key.lstrip("/")).exists() else []
        words += ["trusted=yes"] if options.get("Trusted", "").lower() == "yes" else []
        prefix = f"[{' '.join(words)}] " if words else ""
        lines += [f"deb {prefix}{entry.uri} {name} {' '.join(entry.components)}\n" for name in entry.suites]
    (root / "etc/apt/sources.list").write_text("".join(lines))
    # The habits of Debian's own images: no service starts in a build step, no caches stay behind it.
    write(root / "usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", 0o755)
    write(
        root / "etc/apt/apt.conf.d/docker-clean",
        'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/*.bin || true"; };\n'
        'Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";\nAcquire::Languages "none";\n'
        'Acquire::GzipIndexes "true";\n'
        'Apt::AutoRemove::SuggestsImportant "false";\n' + age_checks(),
    )
    write(
        root / "etc/dpkg/dpkg.cfg.d/docker",
        "force-unsafe-io\npath-exclude /usr/share/doc/*\npath-include /usr/share/doc/*/copyright\n"
        "path-exclude /usr/share/man/*\npath-exclude /usr/share/locale/*\npath-exclude /usr/share/info/*\n",
    )
    for path in sorted((root / "usr/share/doc").rglob("*")):
        if path.is_file() and not path.is_symlink() and path.name != "copyright":
            path.unlink()
    for name in ("etc/machine-id", "etc/resolv.conf", "etc/hostname"):  # each container gets its own
        (root / name).unlink(missing_ok=True)
    return version[0]


def age_checks() -> str:
    """The machine's say on whether old lists are refused: a mirror that is a snapshot needs it in the image too."""
    names = ("Acquire::Check-Valid-Until", "Acquire::Check-Date")
    dump = run(["apt-config", "dump", "--format", "%f %v%n", *names], check=False).stdout
    return "".join(f'{name} "false";\n' for name in names if re.search(rf"^{name} (false|0|no)$", dump, re.MULTILINE))


def write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def write_image(root: Path, target: Path, version: str) -> None:
    """`layer` (tar, gzip), `config.json` and `manifest.json`: an image of one layer."""
    plain, squeezed = hashlib.sha256(), hashlib.sha256()
    words = [
        "tar",
        "-C",
        str(root),
        "--sort=name",
        "--numeric-owner",
        "--xattrs",
        *(f"--exclude={name}" for name in LEFT_OUT),
        "-c",
        ".",
    ]
    tar = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert tar.stdout is not None
    layer = target / "layer"
    with (
        layer.open("wb") as stream,
        gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=4, mtime=0, filename="") as zipped,
    ):
        while piece := tar.stdout.read(1 << 20):
            plain.update(piece)
            zipped.write(piece)
    if tar.wait() != 0:
        raise EngineError("tar could not pack the base image")
    with layer.open("rb") as written:
        while piece := written.read(1 << 20):
            squeezed.update(piece)
    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    config = {
        "created": made,
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine),
        "os": "linux",
        "config": {"Env": [f"PATH={PATH}", "LANG=C.UTF-8", f"PYTHON_VERSION={version}"], "Cmd": ["python3"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{plain.hexdigest()}"]},
        "history": [{"created": made, "created_by": f"debootstrap {suite()}: {' '.join(INCLUDE)}"}],
    }
    config_text = json.dumps(config).encode()
    (target / "config.json").write_bytes(config_text)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {
            "mediaType": CONFIG_TYPE,
            "digest": f"sha256:{hashlib.sha256(config_text).hexdigest()}",
            "size": len(config_text),
        },
        "layers": [{"mediaType": LAYER_TYPE, "digest": f"sha256:{squeezed.hexdigest()}", "size": layer.stat().st_size}],
    }
    (target / "tag").write_text(f"{version}-slim")
    (target / "manifest.json").write_bytes(json.dumps(manifest).encode())


def push(state: State, cached: Path) -> None:
    """Put the cached blobs into the registry, and the reference into the state."""
    body = (cached / "manifest.json").read_bytes()
    tag = (cached / "tag").read_text()
    manifest = json.loads(body)
    pusher = registry.Pusher(registry.address(state), REPOSITORY)
    pusher.blob(cached / "layer", manifest["layers"][0]["digest"])
    pusher.blob(cached / "config.json", manifest["config"]["digest"])
    pusher.manifest(body, MANIFEST_TYPE, tag)
    state.set(base=f"{registry.address(state)}/{REPOSITORY}:{tag}")

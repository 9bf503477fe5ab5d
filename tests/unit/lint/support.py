"""One project for all Dockerfiles of the corpus: what lies around them."""

from __future__ import annotations

from pathlib import Path

from layerkit.lint import Entry, Facts

GIB = 1024**3
CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.Dockerfile"))
FILES = (
    Entry("serve.py", 4096),
    Entry("src/model.py", 9000),
    Entry("src/utils/io.py", 500),
    Entry("requirements.txt", 40),
    Entry("requirements-cpu.txt", 60),
    Entry("requirements-dev.txt", 30),
    Entry("environment.yml", 200),
    Entry("pyproject.toml", 700),
    Entry("uv.lock", 90_000),
    Entry("checkpoint.pth.tar", 2 * GIB),
    Entry("weights/model.safetensors", 4 * GIB),
    Entry("weights/config.json", 600),
    Entry("models/tiny.pt", 1000),
    Entry("resnet.mar", 100_000_000),
    Entry("config.properties", 300),
    Entry("data.tar.gz", 500_000_000),
    Entry(".git/objects/pack", 30_000_000),
    Entry("secret/key.bin", 32, ignored=True),
)
SPECIAL = {
    "46": (
        Entry("big/model-00001-of-00002.safetensors", 11_000_000_000),
        Entry("big/model-00002-of-00002.safetensors", 9_000_000_000),
    ),
    "47": (Entry("lfs/model.pt", 3 * GIB, pointer=True),),
}
REQUIREMENTS = {
    "requirements.txt": "torch==2.4.0\nfastapi==0.110.0\n",
    "requirements-cpu.txt": "--extra-index-url https://mirror.example/cpu\ntorch==2.4.0\n",
    "requirements-dev.txt": "-r requirements.txt\npytest\n",
}


def facts(path: Path, image: str = "") -> Facts:
    """The project around the Dockerfile *path* of the corpus."""
    ignore = "" if "no-ignore" in path.name else ".dockerignore"
    return Facts(FILES + SPECIAL.get(path.name[:2], ()), ignore, REQUIREMENTS, image)


def text(path: Path) -> str:
    """What ``read_text`` gives."""
    return path.read_bytes().decode("utf-8", "surrogateescape")

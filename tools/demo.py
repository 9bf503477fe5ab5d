"""The main job on the digits example: train, build, retrain, build, edit code, build, build again, serve.

Run by ``make demo``, with the engine of ``tools/engine``. Works in a copy of examples/digits; every digest, byte and
second in the table is what ``layerkit build --json`` said.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "digits"
sys.path.insert(0, str(EXAMPLE))

import evaluate  # noqa: E402 - beside the example's other files

from layerkit.cli.text import size  # noqa: E402


def run(*command: str, cwd: Path, capture: bool = False) -> str:
    """Run a command; what it failed with is what we fail with."""
    with subprocess.Popen(command, cwd=cwd, text=True, stdout=subprocess.PIPE if capture else sys.stderr) as child:
        try:
            said, _ = child.communicate()
        except KeyboardInterrupt:
            # It has heard the same Ctrl-C, and is given the time to leave nothing behind.
            child.wait()
            sys.exit(130)
    if child.returncode:
        sys.exit(child.returncode)
    return said or ""


def say(text: str) -> None:
    print(f"\n== {text}", file=sys.stderr, flush=True)


ROLES = {"base", "dependencies", "checkpoint", "code"}
# No wider than 80 columns with what is below it.
HEAD = (
    ("", "", "BuildKit", "to the", "checkpoint", "", ""),
    ("step", "rebuilt", "ran", "builder", "read", "uploaded", "seconds"),
)


class Demo:
    """A working copy of the example, its image's name, and the rows of the table."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = f"{os.environ['LAYERKIT_TEST_REGISTRY']}/demo/digits-{uuid.uuid4().hex[:8]}"
        self.base = os.environ["LAYERKIT_TEST_BASE"]
        self.rows: list[tuple[str, ...]] = []

    def train(self, seed: int) -> None:
        say(f"train with seed {seed}")
        run(sys.executable, "train.py", "--seed", str(seed), cwd=self.folder)

    def build(self, step: str) -> dict[str, Any]:
        say(f"layerkit build --push: {step}")
        settings = ("--set", f"image.name={self.name}", "--set", f"image.base={self.base}")
        begun = time.monotonic()
        command = (sys.executable, "-m", "layerkit", "build", "--push", "-t", "demo", "--json", *settings)
        result: dict[str, Any] = json.loads(run(*command, cwd=self.folder, capture=True))
        seconds = time.monotonic() - begun
        moved, builder = result["bytes"], result["builder"]
        self.rows.append(
            (
                step,
                "everything" if set(result["rebuilt"]) == ROLES else ", ".join(result["rebuilt"]) or "nothing",
                "yes" if builder["ran"] else "no",
                size(builder["bytes_sent"]),
                size(moved["checkpoint_read"]),
                size(moved["uploaded"]),
                f"{seconds:.1f}",
            )
        )
        return result

    def table(self) -> None:
        columns = list(zip(*HEAD, *self.rows, strict=True))
        widths = [max(map(len, column)) for column in columns]
        rule = tuple("-" * width for width in widths)
        print()
        for row in (*HEAD, rule, *self.rows):
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        print(flush=True)

    def serve(self) -> None:
        """Run the container, judge it on digits it has not seen, and hold its digest against the file's."""
        say("docker run")
        run("docker", "pull", "-q", f"{self.name}:demo", cwd=self.folder)
        container = run(
            "docker", "run", "-d", "--rm", "-p", "127.0.0.1::8000", f"{self.name}:demo", cwd=self.folder, capture=True
        ).strip()
        try:
            port = run("docker", "port", container, "8000/tcp", cwd=self.folder, capture=True).split(":")[-1].strip()
            found = evaluate.evaluate(f"http://127.0.0.1:{port}", self.folder / "heldout.json", seconds=60)
        finally:
            run("docker", "stop", "-t", "5", container, cwd=self.folder, capture=True)
        built = "sha256:" + hashlib.sha256((self.folder / "checkpoint.pth.tar").read_bytes()).hexdigest()
        print(f"held-out digits   {found['heldout_digits']}")
        print(f"accuracy          {found['heldout_accuracy']:.4f}")
        print(f"container serves\n  {found['checkpoint_digest']}")
        print(f"just built\n  {built}")
        if found["checkpoint_digest"] != built or found["heldout_accuracy"] < 0.95:
            sys.exit("demo: the container does not serve what was built")
        print("the container serves the checkpoint that was just built")

    def next(self) -> None:
        """What somebody who has seen this does next."""
        print(f"""
Next, with a project of your own (serve.py, requirements.txt, a checkpoint):

    . {ROOT}/.venv/bin/activate
    eval "$({ROOT}/tools/engine env)"    # the Docker of this demo
    cd my-model && layerkit init && layerkit plan

This image again: docker run --rm -p 8000:8000 {self.name}:demo
To end this Docker and registry: tools/engine down""")


def main() -> None:
    parent = ROOT / ".engine"
    parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="demo-", dir=parent) as temporary:
        folder = Path(temporary, "digits")
        # The packages are kept beside the example: 200 MB need not come again.
        say("wheels of the image")
        run("make", "-s", "wheels", f"PYTHON={sys.executable}", f"LAYERKIT={sys.executable} -m layerkit", cwd=EXAMPLE)
        shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("wheels", "checkpoint.pth.tar", "heldout.json"))
        shutil.copytree(EXAMPLE / "wheels", folder / "wheels", copy_function=os.link)
        demo = Demo(folder)
        demo.train(0)
        demo.build("first build")
        demo.train(1)
        swapped = demo.build("retrained")
        with (folder / "serve.py").open("a") as stream:
            stream.write("\n# edited\n")
        edited = demo.build("code edited")
        again = demo.build("nothing changed")
        demo.table()
        if (swapped["rebuilt"], edited["rebuilt"], again["rebuilt"]) != (["checkpoint"], ["code"], []):
            sys.exit("demo: something else was rebuilt than what had changed")
        demo.serve()
        demo.next()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)

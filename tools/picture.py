"""A picture of a terminal for README.md: docs/terminal.svg, of commands that really run, on examples/digits.

Run: eval "$(tools/engine env)"; .venv/bin/python tools/picture.py. Nothing in it is written by hand but the commands.
The SVG needs no network, and follows the reader's light or dark mode.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "digits"
OUTPUT = ROOT / "docs" / "terminal.svg"
SHOWN = (
    "layerkit build --push -t v1 --progress none",
    "python train.py --seed 1",
    "layerkit plan --push -t v2",
    "layerkit build --push -t v2 --progress none",
    "sed -i 's/serving/ready:/' serve.py",
    "layerkit build --push -t v3 --progress none",
)
WIDTH, LINE, SIZE, MARGIN = 104, 17.5, 13, 18  # characters, pixels, pixels, pixels
COLUMN = SIZE * 0.602  # pixels: of the usual monospaced faces

STYLE = """\
text { font: %dpx ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; white-space: pre;
  fill: #1f2328 }
.back { fill: #f6f8fa; stroke: #d0d7de } .typed { font-weight: 600 } .prompt { fill: #1a7f37 } .said { fill: #57606a }
.built { fill: #9a6700 } .packed { fill: #8250df }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .back { fill: #0d1117; stroke: #30363d }
  .prompt { fill: #3fb950 } .said { fill: #8d96a0 } .built { fill: #d29922 } .packed { fill: #bc8cff } }
"""


def recorded(folder: Path) -> list[tuple[str, str]]:
    """(class, line) of all commands and what they print."""
    environment = {
        **os.environ,
        "PATH": f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": str(WIDTH),
        "LAYERKIT_STATE_DIR": str(folder / ".state"),
        "PYTHONWARNINGS": "ignore",
    }
    lines: list[tuple[str, str]] = []
    for command in SHOWN:
        lines += [("", "")] if lines else []
        lines.append(("typed", command))
        done = subprocess.run(
            ["bash", "-c", command], cwd=folder, env=environment, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        if done.returncode:
            sys.exit(f"{command}: {done.returncode}\n{done.stdout}")
        for line in done.stdout.splitlines():
            kind = next((kind for kind in ("packed", "built") if f" {kind} " in line), "said")
            lines.append((kind, line))
    return lines


def svg(lines: list[tuple[str, str]]) -> str:
    """The picture of *lines*."""
    wide = max(len(line) + 2 * (kind == "typed") for kind, line in lines)
    width, height = wide * COLUMN + 2 * MARGIN, len(lines) * LINE + 2 * MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img">',
        "<title>layerkit in a terminal: a first build, new weights, new code</title>",
        f"<style>{STYLE % SIZE}</style>",
        f'<rect class="back" x="0.5" y="0.5" width="{width - 1:.0f}" height="{height - 1:.0f}" rx="8"/>',
    ]
    for number, (kind, line) in enumerate(lines):
        y = MARGIN + (number + 0.75) * LINE
        prompt = '<tspan class="prompt">$ </tspan>' if kind == "typed" else ""
        if line:
            parts.append(f'<text class="{kind}" x="{MARGIN}" y="{y:.1f}">{prompt}{escape(line)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    subprocess.run(
        ["make", "-s", "wheels", f"PYTHON={sys.executable}", f"LAYERKIT={sys.executable} -m layerkit"],
        cwd=EXAMPLE, check=True, stdout=sys.stderr,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="picture-", dir=ROOT / ".engine") as temporary:
        folder = Path(temporary, "digits")
        shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("wheels", "checkpoint.pth.tar", "*.lock"))
        shutil.copytree(EXAMPLE / "wheels", folder / "wheels", copy_function=os.link)
        name = f"acme/digits-{uuid.uuid4().hex[:4]}"  # a registry that has seen it shows no first build
        project = folder / "layerkit.toml"
        text = project.read_text().replace('"digits"', f'"{os.environ["LAYERKIT_TEST_REGISTRY"]}/{name}"')
        project.write_text(text.replace('"python:3.11-slim"', f'"{os.environ["LAYERKIT_TEST_BASE"]}"'))
        subprocess.run([sys.executable, "train.py", "--seed", "0"], cwd=folder, check=True, stdout=sys.stderr)
        made = svg(recorded(folder))
    OUTPUT.write_text(made)
    print(f"{OUTPUT.relative_to(ROOT)}: {len(made.encode())} bytes")


if __name__ == "__main__":
    main()

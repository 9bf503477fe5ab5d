"""Build the image with layerkit's Python API: the same project as layerkit.toml.

    python build.py --name ghcr.io/acme/digits --tag v2 --push

BASE and IMAGE in the environment replace the base and the name, too.
"""

import argparse
import os
from pathlib import Path

import layerkit

parser = argparse.ArgumentParser(description="Build the digits image.")
parser.add_argument("--name", default=os.environ.get("IMAGE", "digits"), help="repository (default: $IMAGE, or digits)")
parser.add_argument("--base", default=os.environ.get("BASE", "python:3.11-slim"), help="image to start from")
parser.add_argument("--tag", action="append", help="may be given several times (default: latest)")
parser.add_argument("--push", action="store_true", help="push to the registry, instead of loading into Docker")
options = parser.parse_args()

project = layerkit.Project(
    image=layerkit.Image(options.name, base=options.base, command=["python", "serve.py"], expose=[8000]),
    dependencies=layerkit.Dependencies("requirements.txt", separate=["torch"], wheels="wheels"),
    code=layerkit.Code(["serve.py", "model.py"]),
    checkpoint=layerkit.Checkpoint("checkpoint.pth.tar", target="/app/model/", chown="root:root"),
    root=Path(__file__).parent,
)

result = layerkit.build(project, tags=options.tag or ["latest"], push=options.push)
print("rebuilt:", ", ".join(result.rebuilt) or "nothing")
print("digest: ", result.digest)

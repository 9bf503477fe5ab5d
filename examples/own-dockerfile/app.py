"""Say which weights this image holds."""

import os
from pathlib import Path

folder = Path(os.environ.get("LAYERKIT_CHECKPOINT", "/app/weights"))
for path in sorted(folder.rglob("*")) if folder.is_dir() else [folder]:
    if path.is_file():
        print(f"{path}: {path.stat().st_size} bytes")
print("digest:", os.environ.get("LAYERKIT_CHECKPOINT_DIGEST", "unknown"))

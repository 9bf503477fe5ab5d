"""Judge a running server from outside of its container, with the standard library alone.

    python evaluate.py http://127.0.0.1:8000 --heldout heldout.json --minimum 0.95 --digest sha256:…

Prints one JSON object: what /healthz says, with the accuracy on the held-out digits. The exit status is 1 when
the accuracy is under --minimum or the server serves another checkpoint than --digest.
"""

from __future__ import annotations

import argparse
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BATCH = 100  # digits in one request


def call(url: str, document: object = None) -> dict[str, Any]:
    """GET *url*, or POST *document* to it; the JSON object that it answers."""
    body = None if document is None else json.dumps(document).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def wait(url: str, seconds: float) -> dict[str, Any]:
    """What ``/healthz`` of the server at *url* says, as soon as it says something.

    Raises:
        TimeoutError: it said nothing for *seconds*.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return call(url + "/healthz")
        except OSError as error:  # urllib's errors are OSErrors
            if time.monotonic() > deadline:
                raise TimeoutError(f"no answer from {url} in {seconds:g} s: {error}") from None
            time.sleep(0.1)


def predictions(url: str, digits: list[list[float]]) -> Iterator[int]:
    """The labels that the server at *url* gives to *digits*."""
    for start in range(0, len(digits), BATCH):
        yield from call(url + "/predict", {"digits": digits[start : start + BATCH]})["labels"]


def evaluate(url: str, heldout: Path, *, seconds: float = 30.0) -> dict[str, Any]:
    """What /healthz says of the server at *url*, with ``heldout_accuracy`` (0 to 1) and ``heldout_digits`` (how many).

    Raises:
        TimeoutError: the server was not ready within *seconds*.
        OSError: *heldout* cannot be read, or the server refused a request.
    """
    health = wait(url, seconds)
    document = json.loads(heldout.read_bytes())
    pairs = list(zip(predictions(url, document["digits"]), document["labels"], strict=True))
    right = sum(predicted == label for predicted, label in pairs)
    return {**health, "heldout_accuracy": right / len(pairs), "heldout_digits": len(pairs)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Judge a running server on the held-out digits.")
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8000")
    parser.add_argument("--heldout", type=Path, default=Path("heldout.json"), help="written by train.py")
    parser.add_argument("--minimum", type=float, default=0.95, help="accuracy to reach (default 0.95)")
    parser.add_argument("--digest", help="the checkpoint digest that the server must report")
    parser.add_argument("--wait", type=float, default=30, help="seconds for the server to be ready (default 30)")
    options = parser.parse_args()
    try:
        result = evaluate(options.url.rstrip("/"), options.heldout, seconds=options.wait)
    except OSError as error:
        raise SystemExit(f"evaluate: {error}") from None
    print(json.dumps(result))
    if result["heldout_accuracy"] < options.minimum:
        raise SystemExit(f"evaluate: accuracy {result['heldout_accuracy']:.4f} is under {options.minimum}")
    if options.digest and result["checkpoint_digest"] != options.digest:
        raise SystemExit(f"evaluate: the server serves {result['checkpoint_digest']}, expected {options.digest}")


if __name__ == "__main__":
    main()

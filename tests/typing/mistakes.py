"""Mistakes that mypy must find: each line says with which error code, and a missing one fails the test."""

from __future__ import annotations

import layerkit

layerkit.Image(3)  # type: ignore[arg-type]
layerkit.Image("a/b", comand=["python"])  # type: ignore[call-arg]
layerkit.Dependencies("requirements.txt", installer="conda")  # type: ignore[arg-type]
layerkit.Checkpoint("x", placement="side")  # type: ignore[arg-type]
layerkit.build(layerkit.load(), "v1")  # type: ignore[call-arg]
layerkit.build(layerkit.load(), way="kaniko")  # type: ignore[arg-type]
layerkit.load().image.name = "c/d"  # type: ignore[misc]
layerkit.biuld(layerkit.load())  # type: ignore[attr-defined]

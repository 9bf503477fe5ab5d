"""The command line: the only place that prints or exits."""

from .app import main

__all__ = ["main"]

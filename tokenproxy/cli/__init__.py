"""Commands: the only place that prints and exits."""

from tokenproxy.cli.root import main

__all__ = ["main"]

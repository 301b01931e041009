"""``python -m tokenproxy`` and the console script."""

from tokenproxy.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()

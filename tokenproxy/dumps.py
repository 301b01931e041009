"""What holds secrets writes no core file, and other programs of the same user cannot look into its memory."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from typing import Final

PR_SET_DUMPABLE: Final = 4
"""prctl(2)."""


def forbid() -> None:
    """
    For this process alone: what it starts begins afresh (``run -- CMD``, ``cmd:`` sources).

    Where a core file would go to a program (core(5), ``systemd-coredump``), the kernel asks no limit, so that the limit
    alone is not enough. It also closes ``/proc/PID/mem`` and ``environ``, and ptrace(2), to all but root.
    """
    if not sys.platform.startswith("linux"):
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
        return
    import ctypes

    with suppress(OSError, AttributeError):  # a C library without it, in which the limit must do
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def forbid_for_all() -> None:
    """For a process that stays, and whatever it starts."""
    forbid()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

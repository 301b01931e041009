"""A disk that fails below the real ``serve``; what needs root (full and read-only disks) is in the whole run."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.reliability import disks


@pytest.mark.timeout(120)
async def test_a_store_whose_file_was_deleted_keeps_what_was_renewed_since(tmp_path: Path) -> None:
    """SQLite goes on writing to a file that has no name any more, and says that all is well."""
    story = disks.Story(tmp_path, disks.Deleted(tmp_path), killed=True)
    await story.run()

    assert not story.faults
    assert story.lost == 0

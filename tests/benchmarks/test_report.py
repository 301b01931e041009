"""The benchmarks' page says what was measured, and nothing else."""

from __future__ import annotations

from benchmarks import plot, report


def test_no_figure_in_the_tables_is_typed_by_hand() -> None:
    """``python -m benchmarks.report`` was run after the last measurement, and nobody wrote between its marks."""
    readme = report.README.read_text()

    assert report.kept()
    assert report.filled(readme) == readme
    assert plot.drawn(report.kept()) == report.PLOT.read_text()

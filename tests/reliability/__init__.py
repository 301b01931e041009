"""What ``benchmarks.reliability`` measures, with small numbers."""

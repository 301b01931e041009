"""
What is lost when things break: ``python -m benchmarks.reliability``.

Everything here is the real program in processes of its own, real stores, and providers that punish a refresh token which
comes twice. The test suite runs the same code with small numbers (``tests/reliability``).
"""

"""
A differential fuzz of the data plane: h11 reads what goes in and what comes out, on both sides.

``python -m tests.fuzz --seconds 60`` makes byte streams from a grammar with tricks in it, and breaks some of them.
A case that fails is made as small as it gets and printed; it is kept under ``tests/proxy/corpus``.
"""

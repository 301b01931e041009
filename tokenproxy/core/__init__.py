"""Decisions, and nothing else: no sockets, no clock, no randomness, no logging."""

"""Attacks on statistics, and a table of their results: `scripts/attack`.

`programs` are programs that attack their own statistics, `runner` runs one of them, or tests that are attacks, and
scores it; `fuzzing` gives readers and parsers invalid bytes. ``tests/attacks`` runs each program for a moment.
"""

"""Attacks on what is counted, and a table of what they cost.

    programs    attacks of one program on its own statistics: all at once what must never matter
    runner      runs one of them, or tests that are attacks, and says what it cost
    fuzzing     readers and parsers against bytes that nobody wrote

`scripts/attack` runs them all, with the storms of `tortures`; ``tests/attacks`` runs each program for a moment.
"""

"""Faults against shmstats, caused with real processes, and a judge of their effects: `scripts/torture`.

`ledger` has the notes of workers, which survive them; `works` is what workers do; `nursery` forks them; `judge` reads a
block; `storm`, `servers` and `deployment` cause faults against workers, a gunicorn, and a deployment over a year;
`watchers` look at its pages; `debug` builds the C core with stop points or sanitizers. ``tests/faults`` uses them too.
"""

"""Faults against shmstats, made with real processes, and a judge of what they cost.

    ledger    where each worker notes what it counts, so that the notes survive it: the oracle
    works     what a worker does until it is told to stop, or killed
    nursery   the process that workers are forked from, for thousands of them
    judge     what a block, or a saved snapshot, says; and whether a block is in order
    storm     faults at random against a group of workers, and the tally of them
    servers   the same against gunicorn under load
    deployment  what happens to a deployment in a year, with pages that are looked at
    watchers  who looks at a deployment's pages all the time
    debug     builds of the C core with stop points, and with sanitizers

`scripts/torture` runs storms for as long as it is told; the tests of ``tests/faults`` take from here what
they need.
"""

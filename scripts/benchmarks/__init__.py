"""What the package costs, measured beside its peers in one run on the same work: run by ``scripts/bench``.

``cases``
    What is measured: a function for each case, in a module for each group of them. It returns `rows.Row` objects.
``peers``
    What it is measured on: a module for each peer and one for this package, each run in processes of its own,
    with the interpreter that has the peer. `subjects` starts them and talks to them by lines of JSON.
``measure``
    How: in rounds, in which the sides take turns, so that a noisy moment or a drift of the machine hits all.
``rows``, ``report``
    What comes out: figures with their spread, targets, the table and the JSON file.
``walks``
    Counts the modules that an operation touches, and the moves between them.
``instructions``
    Counts machine instructions under callgrind, which repeats exactly where times do not.
"""

"""The benchmarks (``scripts/bench``): the costs of the package, measured beside its peers in one run on the same work.

`cases` has a function for each measurement, `peers` the processes that are measured, `measure` the rounds in which the
sides take turns (so that noise hits all of them), `rows` and `report` the results. `walks` counts the modules that an
operation touches, and `instructions` its machine instructions, under callgrind.
"""

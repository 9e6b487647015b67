"""What shmstats and three libraries beside it can do, found by doing it.

`features` has an experiment for each feature, written once; `libraries` says how each library is used, by its own
documentation; `sites` runs an experiment in processes of its own. ``python -m comparison LIBRARY DIRECTORY`` runs
them all with one library and prints what was found. It runs in the library's interpreter, which may have
neither pytest nor shmstats.
"""

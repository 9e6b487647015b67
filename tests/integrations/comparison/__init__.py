"""The features of shmstats and three other libraries, found by experiments.

`features` has one experiment for each feature, `libraries` the documented way to use each library, and `sites` runs an
experiment in its own processes. ``python -m comparison LIBRARY DIRECTORY`` runs all with one library and prints the
results, in that library's interpreter, which may have neither pytest nor shmstats.
"""

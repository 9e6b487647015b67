"""The recent past of a data directory: a ring file that the saver writes and anybody reads.

`ring` is the form of the file, `tracks` says which series it holds and where, `recorder` writes it, `past` reads
it over a span of time, and `documents` makes JSON and CSV of what was read.
"""

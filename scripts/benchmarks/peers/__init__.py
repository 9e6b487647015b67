"""The sides of the comparisons: a module for each peer, and ``ours`` for this package.

Each is run as ``python -m benchmarks.peers.<module>`` in a separate process, and uses only the
standard library and its peer. ``serving`` has their common part.
"""

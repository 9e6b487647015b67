"""The sides of the comparisons: a module for each peer, and ``ours`` for this package.

Each is run as ``python -m benchmarks.peers.<module>`` in a process of its own, and uses nothing but the
standard library and its peer. ``serving`` has what they share.
"""

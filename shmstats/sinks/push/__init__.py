"""Push: the statistics of one data directory, sent to an engine that adds up machines.

`duty` decides when, `sender` sends and judges the answer, `remote_write`, `otlp` and `text` are the formats.
"""

"""Push: sends the statistics of one data directory to an engine that sums over machines.

`duty` decides when, `sender` sends and judges the answer; `remote_write`, `otlp` and `text` are the formats.
"""

"""The commands: one module each, imported when the command runs. `shmstats.cli` has their table."""

"""The commands: one module each, loaded when it is called. `shmstats.cli` has the table of them."""

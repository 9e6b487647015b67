"""The data of the live page and `shmstats top`: totals at a moment, and the rates between two of them."""

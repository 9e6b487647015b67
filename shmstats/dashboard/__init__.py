"""What the live page and `shmstats top` show: totals of a moment, and the rates between two of them."""

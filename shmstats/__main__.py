"""``python -m shmstats``: the commands."""

from .cli import main

main()

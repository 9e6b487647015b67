"""What a process does with its block: attaching, counting outside of the fast path, saving, leaving."""

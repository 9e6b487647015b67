"""What a process does with its block: attaching, counting beyond the fast path, saving, leaving."""

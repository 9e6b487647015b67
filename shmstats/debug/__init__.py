"""What a process is doing: its stacks, its memory."""

"""Everything that only reads a block."""

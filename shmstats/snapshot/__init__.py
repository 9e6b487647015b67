"""The saved snapshot: `format` writes the content of the file, `decoding` reads it, `store` manages the files."""

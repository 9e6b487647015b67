"""What connects statistics to servers and frameworks. Each module is imported by itself, and only where it is used."""

"""Connections to servers and frameworks. Each module is imported separately, and only where it is used."""

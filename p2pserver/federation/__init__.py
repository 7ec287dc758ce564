"""Doors to other servers."""

"""Backups of a node: one file with everything, made while the node runs, and the way back. See docs/backup.md."""

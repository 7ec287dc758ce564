"""Groups of commands beside cli.py, a file each."""

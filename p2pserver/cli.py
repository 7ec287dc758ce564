"""The command line."""


def main() -> None:
    """Entry point of the `p2pserver` script."""

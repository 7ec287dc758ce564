"""`python -m p2pserver` is the `p2pserver` command."""

from p2pserver.cli import main

if __name__ == "__main__":
    main()

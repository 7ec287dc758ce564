"""p2pserver beside Synapse on SQLite: the same requests to both, in turn, in one run."""

"""p2pserver: a Matrix homeserver for every device, peer to peer and offline first."""

__version__ = "0.1.0"

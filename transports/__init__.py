"""Pipes that carry datagrams between neighbors. They know nothing of Matrix and never import `p2pserver`."""

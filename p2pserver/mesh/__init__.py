"""Neighbors: which nodes are near, over which links."""

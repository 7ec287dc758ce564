"""Simplified sliding sync: one engine, two dialects. Source: MSC4186; docs/sliding-sync.md."""

"""Matrix values as few bytes, exact both ways."""

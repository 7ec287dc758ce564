"""One SQLite file: migrations, the writer thread with shared commits, and what is kept in the tables."""

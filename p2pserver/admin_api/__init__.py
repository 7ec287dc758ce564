"""The admin API: the part of Synapse's that operators' tools use, below `/_synapse/admin`. See docs/admin.md."""

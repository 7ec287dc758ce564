"""PDUs: canonical JSON, hashes, signatures, redaction, room versions. No I/O, no clock."""

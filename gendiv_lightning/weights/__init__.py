"""Finding, hashing and loading weight files."""

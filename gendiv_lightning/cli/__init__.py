"""The command `gendiv`."""

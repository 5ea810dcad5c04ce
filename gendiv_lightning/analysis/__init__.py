"""What runs say: pure functions over stored runs, importable from a notebook."""

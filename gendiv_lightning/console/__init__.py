"""Terminal output: tables, grids, pictures."""

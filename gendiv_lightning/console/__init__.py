"""Terminal output: tables, grids and pictures."""

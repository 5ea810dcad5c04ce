"""Studies: `matrix` expands a study into cells, `launch` runs them. Each cell is a plain run."""

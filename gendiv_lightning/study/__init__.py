"""Many runs in one: `matrix` reads a study and makes its cells, `launch` runs them. A cell is a plain run."""

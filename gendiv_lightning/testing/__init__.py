"""Checks for plug-ins, for use in a command or in their own tests; no test framework is needed."""

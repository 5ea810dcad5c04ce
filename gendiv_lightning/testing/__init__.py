"""What a plug-in can be checked with, by a command or in its own tests. It needs no test framework."""

"""One module a command of `gendiv`: `HELP`, `add_arguments(parser)` and `run(arguments) -> exit status`.

Modules import nothing heavy at their top: the parser needs them all.
"""

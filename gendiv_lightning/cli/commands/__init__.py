"""One module per command of `gendiv`: `HELP`, `add_arguments(parser)` and `run(arguments) -> exit status`.

Modules import nothing heavy at the top, since the parser imports all of them.
"""

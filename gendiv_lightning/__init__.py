"""Where does the diversity of an image generator come from? See README.md; the command is `gendiv`."""

__version__ = "0.1.0"

"""The toy: the Postcards dataset, whose true diversity is known, and small models trained on it.

It is a plug-in like any other (`gendiv.generators`, `gendiv.metrics`, `gendiv.features`, `gendiv.files`); the rest of
gendiv does not import it.
"""

from pathlib import Path

FOLDER = Path(__file__).parent
FILES = FOLDER / "data"

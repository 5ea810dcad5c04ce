"""Find the packages: all below gendiv_lightning/, and the folders elsewhere that are installed as parts of it."""

from setuptools import find_packages, setup

FOLDERS = {
    "gendiv_lightning.callbacks": "callbacks",
    "gendiv_lightning.datamodules": "datamodules",
    "gendiv_lightning.configs": "configs",
    "gendiv_lightning.golden": "tests/golden/checks",  # `gendiv doctor --golden` runs what the tests run
}
inside = find_packages(include=["gendiv_lightning*"])
mapped = [
    package for name, folder in FOLDERS.items() for package in (name, *(f"{name}.{p}" for p in find_packages(folder)))
]
setup(packages=[*inside, *mapped], package_dir=FOLDERS)

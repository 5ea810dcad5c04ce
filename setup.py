"""Packages, found where they lie: the classes that configs name have folders of their own at the root."""

from setuptools import find_packages, setup

# Package name -> folder, for what does not lie in gendiv_lightning/.
ROOT_FOLDERS = {
    "gendiv_lightning.callbacks": "callbacks",
    "gendiv_lightning.datamodules": "datamodules",
    "gendiv_lightning.configs": "configs",
    "gendiv_lightning.golden": "tests/golden",
}

setup(packages=[*find_packages(include=["gendiv_lightning*"]), *ROOT_FOLDERS], package_dir=ROOT_FOLDERS)

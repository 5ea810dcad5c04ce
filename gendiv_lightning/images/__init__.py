"""Readers of image data: folders, tables, Parquet, WebDataset tars, Hub datasets."""

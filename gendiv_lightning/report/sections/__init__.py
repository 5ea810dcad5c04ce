"""The sections of a report, one per file: `section(study)` makes it from a `Study`."""

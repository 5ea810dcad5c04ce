"""The sections of a report, one per file: `section(study)` makes it from what all of them share, a `Study`."""

"""Files and caches: atomic writes, tables, tar archives, dataset sources."""

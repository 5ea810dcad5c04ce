"""Files and caches below everything: atomic writes, tar archives, dataset sources."""

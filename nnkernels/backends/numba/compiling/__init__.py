"""From a plain function to machine code: declarations, records, Numba, the cache, linking."""

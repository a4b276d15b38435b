"""From a plain function to machine code: Numba, the cache of object code, linking."""

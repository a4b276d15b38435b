"""From CUDA sources to functions: our own compilation, its files, and CuPy's compilation."""

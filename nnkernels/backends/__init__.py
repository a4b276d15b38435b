"""How operators are computed: one module (or folder) a backend, each with ``load()``."""

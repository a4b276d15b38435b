"""A plug-in that fails at import."""

raise RuntimeError("libfast.so is missing")

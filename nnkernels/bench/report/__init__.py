"""Saved results as something to read: one module a format.

``sections`` says what is shown, once for all formats; ``figures`` draws it.
"""

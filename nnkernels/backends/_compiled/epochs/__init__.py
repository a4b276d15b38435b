"""Whole epochs: a Program as tasks in stages, as tables of integers, run by threads."""

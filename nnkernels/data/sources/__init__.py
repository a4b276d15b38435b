"""The named datasets: one module each, found by its file name.

A module here has a function ``load(*, dtype, ...) -> Dataset`` with keyword arguments only.
``dtype`` is ``np.float32`` or ``np.float64``, already checked; a parameter ``seed`` is passed when
it is there, already checked too; every other parameter is an option of that dataset.
"""

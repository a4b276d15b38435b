"""The command line; every public module of this package is one command (see ``_app``)."""

from nnkernels.cli._app import main

__all__ = ["main"]

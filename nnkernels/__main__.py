"""``python -m nnkernels``."""

from nnkernels.cli import main

main()

"""nnkernels' training steps beside those of its peers: ``python -m benchmarks.peers --help``."""

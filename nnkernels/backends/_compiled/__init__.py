"""What backends of compiled kernels share: how kernels are declared and called, whole epochs."""

"""The kernels: one module for each family of the catalogue, and the mathematics they share."""

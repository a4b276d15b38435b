"""Every operator of the catalogue, typed."""

from nnkernels.catalog import *

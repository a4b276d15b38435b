"""What is computed: every operator, declared once on its NumPy reference; one module a family."""

from nnkernels.catalog.activations import *
from nnkernels.catalog.bookkeeping import *
from nnkernels.catalog.linear import *
from nnkernels.catalog.losses import *
from nnkernels.catalog.movement import *
from nnkernels.catalog.normalisation import *
from nnkernels.catalog.regularisation import *
from nnkernels.catalog.updates import *

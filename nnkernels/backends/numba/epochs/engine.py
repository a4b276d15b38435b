"""The loops of this backend, as the executor of compiled kernels wants them."""

from __future__ import annotations

from nnkernels.backends._compiled.entry import Entry
from nnkernels.backends._compiled.epochs.engine import Engine
from nnkernels.backends.numba.compiling import linking
from nnkernels.backends.numba.compiling.linking import Function, plain_entry
from nnkernels.backends.numba.epochs import team, walker
from nnkernels.backends.numba.products.blocked import blas_product


def _uses_blas(entry: Entry) -> bool:
    return entry.name.startswith(f"{Function(blas_product).name}|")


ENGINE = Engine(
    walk=plain_entry(walker.walk, 7),
    walk_timed=plain_entry(walker.walk_timed, 3),
    lead=plain_entry(team.lead, 8),
    serve=plain_entry(team.serve, 1),
    reserve=plain_entry(team.reserve, 1),
    dismiss=plain_entry(team.dismiss, 1),
    load=linking.load,
    uses_blas=_uses_blas,
)

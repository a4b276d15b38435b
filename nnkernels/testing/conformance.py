"""The conformance suite as a pytest class.

    from nnkernels.testing import Conformance

    class TestMine(Conformance):
        backend = "mine"

One test an operator, and one for the random networks. pytest itself is not imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from nnkernels.backend import Backend
from nnkernels.errors import InputError
from nnkernels.testing.suite import select_parts, verify


class Conformance:
    """Subclass it, naming a backend; selecting no backend or no operator is an error.

    Attributes:
        backend: a name, a Backend, or several of them.
        operators: names of the operators to check; by default all, and the random networks.
        quick: fewer shapes and networks.
        exceptions: known failures with their reasons, see :func:`nnkernels.testing.verify`.
    """

    backend: ClassVar[str | Backend | Sequence[str | Backend]] = ()
    operators: ClassVar[Sequence[str] | None] = None
    quick: ClassVar[bool] = False
    exceptions: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def backends(cls) -> list[str | Backend]:
        """The selected backends, at least one."""
        chosen = [cls.backend] if isinstance(cls.backend, (str, Backend)) else list(cls.backend)
        if not [c for c in chosen if c]:
            raise InputError(
                f"{cls.__name__}: backend selects none; set for example backend = 'numpy'"
            )
        return chosen

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """One test for each backend and part."""
        pairs = [(b, part) for b in self.backends() for part in select_parts(self.operators)]
        names = [f"{getattr(b, 'name', b)}-{part.replace(' ', '-')}" for b, part in pairs]
        metafunc.parametrize(("conforming", "part"), pairs, ids=names)

    def test_conforms(self, conforming: str | Backend, part: str) -> None:
        """The backend serves this part as the catalogue declares it."""
        known = {k: v for k, v in self.exceptions.items() if k.partition("/")[0] == part}
        verify(conforming, operators=[part], quick=self.quick, exceptions=known).check()

"""The expressions of ``-k``: words joined by ``and``, ``or``, ``not`` and parentheses."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from nnkernels.bench.harness import MAIN, USER
from nnkernels.errors import InputError


class Named(Protocol):
    """What can be selected: a case, a sweep, or what a worker says that it can load."""

    @property
    def id(self) -> str:
        """Its name."""

    @property
    def tags(self) -> tuple[str, ...]:
        """Further words."""


N = TypeVar("N", bound=Named)
Match = Callable[[str], bool]
"""Tells whether a word is found in the thing that is matched."""
Node = Callable[[Match], bool]

_TOKEN = re.compile(r"\s*([()]|[^\s()]+)")
MAX_TOKENS = 200


def select(cases: Iterable[N], expression: str | None, default: str = MAIN) -> list[N]:
    """The cases whose id or tags match.

    Without an expression the user's own, or where there are none those tagged ``default``. A
    word matches where it is part of the id, or a tag; upper and lower case are the same.

    Raises:
        InputError: the expression cannot be read, or nothing matches.
    """
    every = list(cases)
    if expression is None:
        own = [case for case in every if USER in case.tags]
        return own or [case for case in every if default in case.tags]
    node = parse(expression)
    found = [case for case in every if node(_finder(case))]
    if not found:
        raise InputError(f"bench: -k {expression!r} matches no workload; see 'nnkernels list'")
    return found


def _finder(case: Named) -> Match:
    name, tags = case.id.lower(), {tag.lower() for tag in case.tags}
    return lambda word: word.lower() in name or word.lower() in tags


def parse(expression: str) -> Node:
    """``expression`` as a predicate over words.

    Raises:
        InputError: it cannot be read.
    """
    tokens = _TOKEN.findall(expression)
    if len(tokens) > MAX_TOKENS:
        raise InputError(f"bench: -k has {len(tokens)} words; at most {MAX_TOKENS} are read")
    parser = _Parser(expression, tokens)
    node = parser.alternatives()
    if parser.tokens:
        raise parser.error()
    return node


@dataclass
class _Parser:
    text: str
    tokens: list[str]

    def error(self) -> InputError:
        where = f"at {self.tokens[0]!r}" if self.tokens else "at its end"
        return InputError(
            f"bench: -k {self.text!r} cannot be read {where}; write for example "
            "'matmul or (train and not W3)'"
        )

    def accept(self, *words: str) -> bool:
        if self.tokens and self.tokens[0].lower() in words:
            self.tokens.pop(0)
            return True
        return False

    def alternatives(self) -> Node:
        parts = [self.conjunction()]
        while self.accept("or"):
            parts.append(self.conjunction())
        return lambda found: any(part(found) for part in parts)

    def conjunction(self) -> Node:
        parts = [self.negation()]
        while self.accept("and"):
            parts.append(self.negation())
        return lambda found: all(part(found) for part in parts)

    def negation(self) -> Node:
        if self.accept("not"):
            inner = self.negation()
            return lambda found: not inner(found)
        if self.accept("("):
            inner = self.alternatives()
            if not self.accept(")"):
                raise self.error()
            return inner
        if not self.tokens or self.tokens[0].lower() in ("and", "or", ")"):
            raise self.error()
        word = self.tokens.pop(0)
        return lambda found: found(word)

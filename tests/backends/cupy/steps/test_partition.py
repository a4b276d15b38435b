"""Groups of pieces keep the order that their memory asks for."""

from __future__ import annotations

from nnkernels.backends.cupy.steps.partition import Partition, dependencies
from nnkernels.backends.cupy.steps.pieces import Piece, Region
from nnkernels.program import Instruction


def piece(reads="", writes=""):
    """A piece that touches the first bytes of memories named by letters."""
    touched = [tuple(Region(name, 0, 8) for name in names) for names in (reads, writes)]
    return Piece(Instruction("identity", (), ()), Instruction("identity", (), ()), *touched)


def chain(*words):
    """Pieces from words such as ``ab>c``: reads a and b, writes c."""
    return [piece(*word.split(">")) for word in words]


def test_a_piece_follows_who_wrote_what_it_reads_and_who_used_what_it_writes():
    assert dependencies(chain(">a", "a>b", "a>c", ">a", "b>")) == [set(), {0}, {0}, {0, 1, 2}, {1}]


def test_bytes_count_not_slots():
    whole = Piece(*[Instruction("identity", (), ())] * 2, (Region("m", 0, 64),), ())
    parts = [
        Piece(*[Instruction("identity", (), ())] * 2, (), (Region("m", first, first + 32),))
        for first in (0, 32, 64)
    ]
    assert dependencies([*parts, whole])[-1] == {0, 1}


def test_pieces_come_together_at_the_place_of_the_first():
    partition = Partition(chain(">a", ">x", "a>b", "x>y"))
    assert partition.merge((0, 2))
    assert partition.ordered() == [(0, 2), (1,), (3,)]


def test_a_group_waits_for_what_a_later_piece_of_it_needs():
    partition = Partition(chain(">a", ">x", "ax>b", "x>"))
    assert partition.merge((0, 2))
    assert partition.ordered() == [(1,), (0, 2), (3,)]


def test_a_group_that_would_wait_for_itself_is_refused():
    partition = Partition(chain(">a", "a>b", "b>c", "a>d"))
    assert not partition.merge((0, 2))
    assert partition.alone(0)
    assert partition.ordered() == [(0,), (1,), (2,), (3,)]
    assert partition.merge((0, 1, 2))
    assert not partition.alone(2)


def test_groups_do_not_wait_for_each_other():
    partition = Partition(chain(">a", ">b", "a>c", "b>d", "d>e", "c>f"))
    assert partition.merge((0, 4))  # after 1 and 3
    assert not partition.merge((3, 5))  # 5 follows 2, which follows 0
    assert partition.ordered() == [(1,), (3,), (0, 4), (2,), (5,)]


def test_groups_grow():
    partition = Partition(chain(">a", "a>b", "b>c"))
    assert partition.merge((0, 1))
    assert partition.merge((1, 2))
    assert partition.ordered() == [(0, 1, 2)]

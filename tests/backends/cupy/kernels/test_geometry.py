"""Every row falls to exactly one team, and no grid is larger than the scratch for its sums."""

from __future__ import annotations

import pytest

from nnkernels.backends.cupy.kernels import geometry
from nnkernels.backends.cupy.launching import BLOCK, MAX_BLOCKS

ROWS = (0, 1, 8, 9, 1024, 8192, 10**6)


@pytest.mark.parametrize(
    ("columns", "variant"), [(1, "_warp"), (128, "_warp"), (129, "_block"), (10**6, "_block")]
)
def test_a_warp_takes_what_fits_its_registers(columns, variant):
    assert geometry.row_teams(5, columns)[0] == variant


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("columns", [1, 10, 1000])
def test_a_grid_has_a_block_at_least_and_as_many_as_there_is_scratch_for_at_most(rows, columns):
    _, (blocks, _) = geometry.row_teams(rows, columns)
    assert 1 <= blocks <= MAX_BLOCKS


@pytest.mark.parametrize(("rows", "blocks"), [(8, 1), (9, 2), (80, 10)])
def test_eight_narrow_rows_share_a_block(rows, blocks):
    assert geometry.row_teams(rows, 10) == ("_warp", (blocks, 1))


@pytest.mark.parametrize(
    ("columns", "shift"), [(0, 0), (1, 0), (2, 1), (3, 2), (10, 4), (196, 8), (256, 8), (1000, 8)]
)
def test_a_tile_is_the_narrowest_that_holds_a_row(columns, shift):
    assert geometry.tile(5, columns)[0] == shift


@pytest.mark.parametrize("columns", [1, 10, 196, 1000])
def test_the_tiles_of_a_grid_hold_all_rows(columns):
    shift, (blocks, _) = geometry.tile(777, columns)
    height = BLOCK >> shift
    assert (blocks - 1) * height < 777 <= blocks * height

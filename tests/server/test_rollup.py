"""The law of rollups: coarsening merges, and a reader cannot tell how a bucket came about."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gradhelm import wire
from gradhelm_server.rollup import FACTOR, LEVELS, Piece, Pyramid

numbers = st.one_of(
    st.floats(
        width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**100), max_value=2.0**100
    ),
    st.sampled_from([np.nan, np.inf, -np.inf, float(wire.MISSING)]),
)


@st.composite
def matrices(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Increasing steps with holes, and values with NaN, infinities and missing ones."""
    count = draw(st.integers(1, 60))
    width = draw(st.integers(1, 3))
    gaps = draw(st.lists(st.sampled_from([1, 1, 1, 2, 17, 300]), min_size=count, max_size=count))
    steps = np.cumsum(np.array(gaps, np.uint64))
    values = draw(arrays(np.float32, (count, width), elements=numbers))
    holes = draw(arrays(np.bool_, (count, width)))
    values.view(np.uint32)[holes] = wire.MISSING_BITS
    return steps, values


def same(a: Piece, b: Piece) -> None:
    np.testing.assert_array_equal(a.ids, b.ids)
    for name in ("low", "high", "count", "nonfinite"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    np.testing.assert_allclose(a.mean(), b.mean(), rtol=1e-5, atol=1e-20)


@given(matrices())
def test_coarsening_in_stages_is_coarsening_at_once(matrix) -> None:
    piece = Piece.of_steps(*matrix)
    same(piece.coarsen(16).coarsen(16), piece.coarsen(256))


@given(matrices(), st.integers(0, 60))
def test_pieces_apart_and_together_coarsen_to_the_same(matrix, cut) -> None:
    steps, values = matrix
    apart = Piece.joined(
        [Piece.of_steps(steps[:cut], values[:cut]), Piece.of_steps(steps[cut:], values[cut:])]
    )
    same(apart.coarsen(16), Piece.of_steps(steps, values).coarsen(16))


@given(matrices())
def test_a_bucket_is_what_numpy_says_of_its_steps(matrix) -> None:
    steps, values = matrix
    piece = Piece.of_steps(steps, values).coarsen(16)
    for row, bucket in enumerate(piece.ids):
        inside = values[steps // 16 == bucket]
        for column in range(values.shape[1]):
            finite = inside[:, column][np.isfinite(inside[:, column])]
            assert piece.count[row, column] == len(finite)
            missing = wire.missing(np.ascontiguousarray(inside[:, column])).sum()
            assert piece.nonfinite[row, column] == len(inside) - len(finite) - missing
            if len(finite):
                assert piece.low[row, column] == finite.min()
                assert piece.high[row, column] == finite.max()


@given(matrices(), st.lists(st.integers(0, 60), max_size=5))
def test_what_frames_close_and_leave_open_is_the_whole_however_they_are_cut(matrix, cuts) -> None:
    steps, values = matrix
    pyramid, closed = Pyramid(), {level: [] for level in range(1, LEVELS + 1)}
    edges = sorted({0, len(steps), *(min(cut, len(steps)) for cut in cuts)})
    for begin, end in itertools.pairwise(edges):
        for level, piece in pyramid.push(Piece.of_steps(steps[begin:end], values[begin:end])):
            closed[level].append(piece)
    whole = Piece.of_steps(steps, values).coarsen(FACTOR)
    same(Piece.joined([*closed[1], pyramid.open[0]]).coarsen(1), whole)
    # Above, what is closed one level below has arrived, neither more nor less.
    for level in range(2, LEVELS + 1):
        below = closed[level - 1]
        here = [*closed[level], *([pyramid.open[level - 1]] if pyramid.open[level - 1] else [])]
        assert bool(below) == bool(here)
        if below:
            same(Piece.joined(here).coarsen(1), Piece.joined(below).coarsen(FACTOR))


@given(matrices())
def test_a_stored_piece_reads_back_column_by_column(matrix) -> None:
    piece = Piece.of_steps(*matrix).coarsen(16)
    width = piece.low.shape[1]
    packed = piece.pack()
    same(Piece.unpack(packed, width, np.arange(width)), piece)
    last = np.array([width - 1])
    same(Piece.unpack(packed, width, last), piece.column(width - 1))

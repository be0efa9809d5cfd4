"""The law of rollups: coarsening merges, and a reader cannot tell how a bucket came about."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gradhelm import wire
from gradhelm_server.rollup import Piece
from gradhelm_server.tiles import pack_buckets, unpack_buckets

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
    gaps = draw(
        st.lists(st.sampled_from([1, 1, 1, 1, 1, 1, 2, 17, 300]), min_size=count, max_size=count)
    )
    steps = np.cumsum(np.array(gaps, np.uint64))
    values = draw(arrays(np.float32, (count, width), elements=numbers))
    holes = draw(arrays(np.bool_, (count, width)))
    values.view(np.uint32)[holes] = wire.MISSING_BITS
    return steps, values


def same(a: Piece, b: Piece) -> None:
    np.testing.assert_array_equal(a.ids, b.ids)
    for name in ("low", "high", "count", "nonfinite"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    # Sums are added in another order: what is lost in that is small beside what was added.
    some = a.count > 0
    ours, theirs = (piece.mean()[some].astype(np.float64) for piece in (a, b))
    largest = np.maximum(np.abs(a.low[some]), np.abs(a.high[some])).astype(np.float64)
    assert (np.abs(ours - theirs) <= 1e-5 * np.abs(theirs) + 1e-14 * largest + 1e-20).all()


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


@given(
    st.integers(1, 70), st.integers(1, 3), st.integers(0, 1000), st.sampled_from([2, 8, 16, 128])
)
def test_steps_without_a_hole_coarsen_like_any_others(count, width, first, factor) -> None:
    """There is a faster way for them."""
    steps = np.arange(first, first + count, dtype=np.uint64)
    values = np.random.default_rng(count).lognormal(size=(count, width)).astype(np.float32)
    piece = Piece.of_steps(steps, values)
    # One missing value apart makes all of it take the general way.
    bits = np.concatenate([values, values[:1]]).view(np.uint32)
    bits[-1] = wire.MISSING_BITS
    far = np.append(steps, np.uint64(10**9))
    general = Piece.of_steps(far, bits.view(np.float32)).coarsen(factor)
    same(piece.coarsen(factor), general.rows(slice(0, -1)))


@given(matrices())
def test_stored_buckets_read_back_as_they_were(matrix) -> None:
    piece = Piece.of_steps(*matrix).coarsen(16)
    piece = piece.rows(np.flatnonzero(piece.ids < 256))
    if not len(piece):
        return
    width = piece.low.shape[1]
    ids, planes = unpack_buckets(pack_buckets(piece.ids, piece.planes()), width, 0)
    same(Piece.of_planes(ids, planes), piece)

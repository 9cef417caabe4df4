"""Sliced products, sums and Gram matrices against fractions, where their promises are exact statements."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refquant.errors import InputError, NumericalError
from refquant.numerics import ORDERED
from refquant.numerics.arrays import Array
from refquant.numerics.exact_product import RUN, product
from refquant.numerics.gram_digits import MOST_TOKENS, GramDigits
from refquant.numerics.slicing import exponents, largest, peel, width_of_products, width_of_sums

U = Fraction(1, 2**53)


def drawn(seed: int, *shape: int, spread: int = 0, dtype: type = np.float64) -> Array:
    """Normal numbers whose exponents are spread over `spread` bits each way; some are zero."""
    rng = np.random.Generator(np.random.PCG64(seed))
    x = np.ldexp(rng.standard_normal(shape), rng.integers(-spread, spread + 1, shape))
    return np.where(rng.random(shape) < 0.1, 0, x).astype(dtype)


def exact(a: Array, b: Array) -> list[list[Fraction]]:
    rows = [[Fraction(float(v)) for v in row] for row in a]
    columns = [[Fraction(float(v)) for v in column] for column in b.T]
    return [[sum((p * q for p, q in zip(row, column, strict=True)), Fraction(0)) for column in columns] for row in rows]


def power(e: int) -> Fraction:
    return Fraction(2) ** int(e)


def bound(a: Array, b: Array, slices: int) -> list[list[Fraction]]:
    """The promise of exact_product, entry by entry."""
    inner = a.shape[1]
    width = width_of_products(min(inner, RUN), slices)
    e, f = exponents(largest(a, 1))[:, 0], exponents(largest(b, 0))[0]
    magnitudes = exact(np.abs(a), np.abs(b))
    runs = -(-inner // RUN)
    cut = (1 + Fraction(slices, 4)) * inner
    return [
        [cut * power(e[i] + f[j] - slices * width) + (runs + slices) * U * magnitudes[i][j] for j in range(b.shape[1])]
        for i in range(a.shape[0])
    ]


@pytest.mark.parametrize("slices", [1, 2, 3, 4])
@pytest.mark.parametrize("spread", [0, 12, 60])
@pytest.mark.parametrize("inner", [1, 2, 7, 33])
def test_products_keep_their_promise(slices: int, spread: int, inner: int) -> None:
    a, b = drawn(inner, 4, inner, spread=spread), drawn(inner + 1, inner, 3, spread=spread)
    found, expected, allowed = product(a, b, slices), exact(a, b), bound(a, b, slices)
    for i in range(4):
        for j in range(3):
            assert abs(Fraction(float(found[i, j])) - expected[i][j]) <= allowed[i][j]


def test_long_products_keep_their_promise() -> None:
    a, b = drawn(1, 2, 2 * RUN + 5, spread=3), drawn(2, 2 * RUN + 5, 2, spread=3)
    for slices in (2, 3):
        found, expected, allowed = product(a, b, slices), exact(a, b), bound(a, b, slices)
        assert all(abs(Fraction(float(found[i, j])) - expected[i][j]) <= allowed[i][j] for i in range(2) for j in range(2))


def test_partial_sums_of_slices_stay_below_2_to_the_53_and_one_bit_more_would_not() -> None:
    def widest(terms: int, slices: int, w: int) -> int:
        sizes = [2**w] + [2 ** (w - 1)] * (slices - 1)
        return max(terms * sum(sizes[i] * sizes[d - i] for i in range(d + 1)) for d in range(slices))

    for terms in [*range(1, 70), 127, 128, 129, 819, 820, 1023, 1024]:
        for slices in (1, 2, 3, 4):
            w = width_of_products(terms, slices)
            assert widest(terms, slices, w) <= 2**53 < widest(terms, slices, w + 1)
        assert terms * 2 ** width_of_sums(terms) <= 2**53 < terms * 2 ** (width_of_sums(terms) + 1)


def test_slices_never_have_fewer_than_21_bits() -> None:
    """Odd numbers of 42 bits, which two slices hold and two shorter ones would not, however long the inner axis."""
    for inner in (1, 1000, RUN, RUN + 1, 2 * RUN, 2 * RUN + 5):
        a = np.random.Generator(np.random.PCG64(inner)).integers(2**41, 2**42, (1, inner)) | 1
        assert product(a.astype(np.float64), np.ones((inner, 1)), 2)[0, 0] == sum(a[0].tolist())


@given(
    values=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=6),
    width=st.integers(2, 30),
    count=st.integers(1, 4),
)
@example(values=[1.0 - 2.0**-53, -(1.0 - 2.0**-53), 0.75, 0.7499], width=2, count=3)
@example(values=[5e-324, 0.0], width=21, count=2)
def test_slices_are_as_short_as_promised_and_leave_half_a_unit_at_most(values: list[float], width: int, count: int) -> None:
    x = np.array(values)
    e = exponents(largest(x, 0))
    slices = [np.empty(len(x)) for _ in range(count)]
    peel(x, e, width, slices)
    for i, value in enumerate(values):
        rest = Fraction(value) / power(e[0])
        for place, one in enumerate(slices, start=1):
            assert abs(one[i]) <= 2 ** (width if place == 1 else width - 1)
            rest -= Fraction(int(one[i])) / 2 ** (place * width)
        assert abs(rest) <= Fraction(1, 2 ** (count * width + 1))


def test_full_slices_are_exact() -> None:
    """Every slice as large as it can be, and all of one sign: where a bound that is off by one shows."""
    for inner in (819, 820, 1024):
        width = width_of_products(inner, 3)
        ones = float(2**width - 1) / 2**width  # S_0 = 2^w - 1, or 2^w after rounding
        tops = np.full((1, inner), ones + 2.0 ** (-width - 1) + 2.0 ** (-2 * width - 1))
        expected = inner * Fraction(float(tops[0, 0])) ** 2
        assert abs(Fraction(float(product(tops, tops.T, 3)[0, 0])) - expected) <= 3 * U * expected + inner * 2 * power(-3 * width)


@given(st.integers(0, 10**6), st.integers(1, 40), st.sampled_from([0, 4]))
def test_float32_products_are_nearly_correctly_rounded(seed: int, inner: int, spread: int) -> None:
    a, b = drawn(seed, 2, inner, spread=spread, dtype=np.float32), drawn(seed + 1, inner, 2, spread=spread, dtype=np.float32)
    found, expected, allowed = product(a, b), exact(a, b), bound(a, b, 2)
    assert found.dtype == np.float32
    for i in range(2):
        for j in range(2):
            got = Fraction(float(found[i, j]))
            half = Fraction(float(np.spacing(np.abs(found[i, j])))) / 2
            assert abs(got - expected[i][j]) <= half + allowed[i][j]


def test_integers_are_multiplied_exactly_in_every_dtype() -> None:
    rng = np.random.Generator(np.random.PCG64(3))
    a, b = rng.integers(-128, 128, (5, 300)), rng.integers(-128, 128, (300, 6))
    for dtype in (np.float32, np.float64):
        assert np.array_equal(product(a.astype(dtype), b.astype(dtype)), a @ b)


@pytest.mark.parametrize(
    ("left", "right"),
    [(-1074, 1000), (-1074, 0), (1020, -1074), (1020, -1020), (-600, -470), (-537, -537), (1000, 20), (511, 510), (-1000, -60)],
)
def test_any_exponent_gives_the_rounded_product(left: int, right: int) -> None:
    a, b = np.ldexp(np.array([[1.0, -0.5, 3.0]]), left), np.ldexp(np.array([[1.0], [3.0], [1.5]]), right)
    expected = sum((Fraction(float(p)) * Fraction(float(q)) for p, q in zip(a[0], b[:, 0], strict=True)), Fraction(0))
    assert product(a, b)[0, 0] == float(expected)


def test_overflow_is_an_infinity() -> None:
    for dtype, big in ((np.float32, 1e38), (np.float64, 1e308)):
        x = np.full((1, 2), big, dtype=dtype)
        with np.errstate(over="ignore"):
            assert product(x, x.T)[0, 0] == np.inf
            assert product(x, -x.T)[0, 0] == -np.inf


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_infinities_and_nans_are_those_of_ieee(dtype: type) -> None:
    """All patterns of special values of length two, against plain Python."""
    special = [np.inf, -np.inf, np.nan, 0.0, -0.0, 2.0, -3.0]
    rows = np.array([[p, q] for p in special for q in special], dtype=dtype)
    found = product(rows, rows.T)
    for i, row in enumerate(rows.tolist()):
        for j, column in enumerate(rows.tolist()):
            expected = row[0] * column[0] + row[1] * column[1]
            assert (np.isnan(expected) and np.isnan(found[i, j])) or found[i, j] == expected


def test_zeros_are_positive() -> None:
    zero = np.zeros((2, 2))
    for a in (zero, -zero, np.array([[1.0, -1.0]] * 2)):
        for b in (zero, -zero, np.ones((2, 2))):
            assert not np.signbit(product(a, b)).any()
    for dtype, small in ((np.float32, 1e-30), (np.float64, 1e-200)):  # underflow
        x = np.full((1, 1), small, dtype=dtype)
        assert not np.signbit(product(-x, x)).any()
    assert not np.signbit(ORDERED.sum(np.array([-0.0, -0.0])))


@pytest.mark.parametrize(
    ("left", "right"), [((3, 0), (0, 2)), ((0, 4), (4, 2)), ((3, 4), (4, 0)), ((2, 3, 0), (0, 5)), ((0, 3, 4), (4, 2))]
)
def test_empty_products(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    expected = np.zeros(left) @ np.zeros(right)
    found = product(np.ones(left, dtype=np.float32), np.ones(right, dtype=np.float32))
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    assert not found.any()


def test_stacks_broadcast_and_arguments_stay() -> None:
    a, b = drawn(5, 2, 1, 4, 3), drawn(6, 5, 3, 2)
    before = a.tobytes(), b.tobytes()
    found = product(a, b)
    assert found.shape == (2, 5, 4, 2)
    assert all(found[i, j].tobytes() == product(a[i, 0], b[j]).tobytes() for i in range(2) for j in range(5))
    assert (a.tobytes(), b.tobytes()) == before


def test_layout_and_batching_change_nothing() -> None:
    a, b = drawn(7, 300, 40, spread=6, dtype=np.float32), drawn(8, 40, 50, spread=6, dtype=np.float32)
    whole = product(a, b)
    assert product(np.asfortranarray(a), np.asfortranarray(b)).tobytes() == whole.tobytes()
    assert np.concatenate([product(a[:1], b), product(a[1:77], b), product(a[77:], b)]).tobytes() == whole.tobytes()
    assert np.concatenate([product(a, b[:, :1]), product(a, b[:, 1:])], axis=1).tobytes() == whole.tobytes()


def test_the_inner_axis_may_be_permuted_while_it_is_one_run() -> None:
    a, b = drawn(9, 6, 500, spread=20), drawn(10, 500, 4, spread=20)
    order = np.random.Generator(np.random.PCG64(0)).permutation(500)
    assert product(a[:, order], b[order]).tobytes() == product(a, b).tobytes()


def test_what_cannot_be_multiplied_is_refused() -> None:
    x = np.ones((2, 3))
    for a, b in ((x, x), (x[0], x.T), (x, x[0]), (x.astype(np.float16), x.T.astype(np.float16)), (x.astype(int), x.T.astype(int))):
        with pytest.raises(InputError, match="product"):
            product(a, b)
    with pytest.raises(InputError, match="sum"):
        ORDERED.sum(x.astype(np.float16))


numbers = st.floats(allow_nan=False, allow_infinity=False, width=64, min_value=-1e300, max_value=1e300)


@given(values=st.lists(numbers, min_size=1, max_size=40), data=st.data())
@example(values=[1e300, 1.0, -1e300], data=None)
@example(values=[5e-324] * 3, data=None)
def test_sums_are_order_free_and_right(values: list[float], data: st.DataObject | None) -> None:
    x = np.array(values)
    found = ORDERED.sum(x)
    expected = sum((Fraction(v) for v in values), Fraction(0))
    largest = max(abs(Fraction(v)) for v in values)
    roundings = 3 * U * (abs(expected) + largest * Fraction(len(values), 2**30)) + Fraction(1, 2**1074)
    assert abs(Fraction(float(found)) - expected) <= largest * Fraction(1, 2 ** (52 + 8)) + roundings
    if data is not None:
        shuffled = data.draw(st.permutations(values))
        assert ORDERED.sum(np.array(shuffled)).tobytes() == found.tobytes()


@pytest.mark.parametrize("terms", [1, 2, 1000, 1024, 100_000])
def test_float32_sums_are_nearly_correctly_rounded(terms: int) -> None:
    x = drawn(terms, terms, spread=2, dtype=np.float32)
    expected = sum((Fraction(float(v)) for v in x), Fraction(0))
    found = ORDERED.sum(x)
    cut = Fraction(float(np.abs(x).max())) / 2 ** (23 + 8)
    assert found.dtype == np.float32
    assert abs(Fraction(float(found)) - expected) <= Fraction(float(np.spacing(np.abs(found)))) / 2 + cut


@pytest.mark.parametrize("axis", [None, 0, -1, 1, (0, 2), (-1, 0), (0, 1, 2), ()])
@pytest.mark.parametrize("keepdims", [False, True])
def test_axes_are_those_of_numpy(axis: int | tuple[int, ...] | None, keepdims: bool) -> None:
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for array in (x, x.astype(np.float64), x[:0], x[:, :, :0], x.astype(np.int64), x > 3):
        found, expected = ORDERED.sum(array, axis=axis, keepdims=keepdims), np.sum(array, axis=axis, keepdims=keepdims)
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        assert np.array_equal(found, expected)


def test_special_sums() -> None:
    x = np.array([[np.inf, 1.0, 1.0], [np.inf, -np.inf, 0.0], [np.nan, 1.0, 2.0], [-np.inf, 1.0, 1.0], [1.0, 2.0, 3.0]])
    assert np.array_equal(ORDERED.sum(x, axis=1), [np.inf, np.nan, np.nan, -np.inf, 6.0], equal_nan=True)
    assert np.array_equal(ORDERED.sum(x.astype(np.float32), axis=1), [np.inf, np.nan, np.nan, -np.inf, 6.0], equal_nan=True)


@st.composite
def grouped_tokens(draw: st.DrawFn) -> tuple[Array, list[Array]]:
    """Tokens, and the same tokens in another order and cut into groups."""
    features = draw(st.integers(1, 4))
    value = st.one_of(st.just(0.0), st.floats(-1e3, 1e3), st.floats(-1e-9, 1e-9), st.floats(-1e30, 1e30))
    rows = draw(st.lists(st.lists(value, min_size=features, max_size=features), min_size=1, max_size=8))
    order = draw(st.permutations(range(len(rows))))
    cuts = sorted(draw(st.lists(st.integers(0, len(rows)), max_size=3)))
    x = np.array(rows)
    return x, np.split(x[list(order)], cuts)


@given(grouped_tokens(), st.randoms(use_true_random=False))
def test_gram_matrices_do_not_depend_on_grouping_or_order(drawn_tokens: tuple[Array, list[Array]], random: object) -> None:
    x, groups = drawn_tokens
    whole = GramDigits.of(x)
    parts = [GramDigits.of(group) for group in groups]
    while len(parts) > 1:
        i = random.randrange(len(parts) - 1)  # type: ignore[attr-defined]
        left, right = parts[i], parts.pop(i + 1)
        parts[i] = left.merge(right) if random.random() < 0.5 else right.merge(left)  # type: ignore[attr-defined]
    assert parts[0].tokens == whole.tokens
    for field in ("top", "parts"):
        assert getattr(parts[0], field).tobytes() == getattr(whole, field).tobytes()
    assert parts[0].total().tobytes() == whole.total().tobytes() == ORDERED.gram(x).tobytes()


@given(grouped_tokens())
def test_gram_matrices_keep_their_promise(drawn_tokens: tuple[Array, list[Array]]) -> None:
    x = drawn_tokens[0]
    found, expected, e = ORDERED.gram(x), exact(x.T, x), exponents(largest(x, 0))[0]
    assert np.array_equal(found, found.T)
    for i in range(x.shape[1]):
        for j in range(x.shape[1]):
            cut = len(x) * power(e[i] + e[j] - 59)
            magnitude = sum((abs(Fraction(float(p)) * Fraction(float(q))) for p, q in zip(x[:, i], x[:, j], strict=True)), Fraction(0))
            assert abs(Fraction(float(found[i, j])) - expected[i][j]) <= cut + 4 * U * magnitude + Fraction(1, 2**1074)


def test_gram_matrices_at_the_ends_of_the_exponents() -> None:
    tiny = np.array([[5e-324, 1.0], [0.0, 2.0], [1e300, 0.0]])
    total = GramDigits.of(tiny[:1]).merge(GramDigits.of(tiny[1:2])).total()
    assert total.tolist() == [[0.0, 5e-324], [5e-324, 5.0]]
    with np.errstate(over="ignore"):
        assert GramDigits.of(tiny).total()[0, 0] == np.inf
    assert GramDigits.of(np.zeros((0, 2))).total().tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_gram_matrices_refuse_what_they_cannot_hold() -> None:
    one = GramDigits.of(np.ones((1, 2)))
    with pytest.raises(InputError, match="2 and 3 features"):
        one.merge(GramDigits.of(np.ones((1, 3))))
    with pytest.raises(InputError, match="finite"):
        GramDigits.of(np.array([[np.nan]]))
    with pytest.raises(NumericalError, match="tokens"):
        GramDigits(tokens=MOST_TOKENS + 1, top=one.top, parts=one.parts)

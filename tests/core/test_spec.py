"""Specs are their text: equal specs, equal texts, equal hashes; whatever contradicts itself is refused."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.core import SCHEMES, ClipSearch, QuantSpec, Scheme, Tiling, find_scheme, spec
from refquant.errors import InputError, UsageError
from refquant.formats import IntFormat
from tests.core.nasty import specs


@given(s=specs(), other=specs())
def test_text_and_spec_are_one(s: QuantSpec, other: QuantSpec) -> None:
    again = QuantSpec.from_json(s.to_json())
    assert again == s
    assert again.to_json() == s.to_json()
    assert hash(again) == hash(s)
    assert (s == other) == (s.to_json() == other.to_json())


def test_the_text_is_canonical_and_stays() -> None:
    # A literal: if this changes, every digest ever written changes with it.
    assert spec("int4", group_size=128, scheme="sym_gptq", scale_format="float16", mse=True).to_json() == (
        '{"clip_search":{"max_shrink":0.8,"norm":2.4,"steps":100},"format":{"bits":4,"narrow":false,"signed":false},"nan":"raise",'
        '"overflow":"saturate","range_ratio":1.0,"rounding":"half_even","scale_format":"float16",'
        '"scheme":{"empty":"unit_range","name":"sym_gptq","narrow":false,"range":"absmax","reciprocal":false,"signed":false,'
        '"steps":"levels","zero":"midpoint"},"tiling":[1,128]}'
    )


def test_equal_numbers_give_equal_texts() -> None:
    assert spec("int4", range_ratio=1).to_json() == spec("int4", range_ratio=np.float64(1.0)).to_json()
    assert spec("int4", range_ratio=0.5).to_json() == spec("int4", range_ratio=np.float32(0.5)).to_json()  # type: ignore[arg-type]
    assert spec("int4", mse=ClipSearch(max_shrink=1, norm=2)) == spec("int4", mse=ClipSearch(max_shrink=1.0, norm=2.0))
    assert spec("int4", mse=ClipSearch(norm=2)).to_json() == spec("int4", mse=ClipSearch(norm=2.0)).to_json()
    assert spec("int4", rounding="floor").to_json() == replace(spec("int4"), rounding="floor").to_json()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"format": "int17"}, "unknown format"),
        ({"format": "int4", "scheme": "nf4"}, "unknown scheme"),
        ({"format": "uint4", "scheme": "sym_full"}, "signed codes; uint4 does not"),
        ({"format": IntFormat(bits=4, signed=True), "scheme": "asym_incl0"}, "unsigned codes"),
        ({"format": "int1", "scheme": "sym_full"}, "at least 2 bits"),
        ({"format": "int1", "scheme": "sym_narrow"}, "at least 2 bits"),
        ({"rounding": "nearest"}, "unknown rounding"),
        ({"overflow": "clip"}, "overflow is"),
        ({"nan": "ignore"}, "nan is"),
        ({"scale_format": "float8"}, "unknown floating dtype"),
        ({"range_ratio": 0.0}, "range_ratio lies in"),
        ({"range_ratio": 1.5}, "range_ratio lies in"),
        ({"range_ratio": float("nan")}, "range_ratio is a finite number"),
        ({"range_ratio": True}, "range_ratio is a finite number"),
        ({"group_size": 0}, "group_size is a positive integer"),
        ({"group_size": 2.0}, "group_size is a positive integer"),
        ({"group_size": 4, "tiling": Tiling.tensor()}, "not both"),
        ({"granularity": "row"}, "granularity is"),
        ({"scheme": "asym_minmax", "empty": "floor"}, "without a width"),
        ({"scheme": "asym_minmax", "empty": "unit_range"}, "without a width"),
        ({"empty": "nothing"}, "unknown empty rule"),
    ],
)
def test_contradictions_are_refused(words: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        spec(**words)  # type: ignore[arg-type]


def test_bare_widths_follow_the_scheme() -> None:
    assert spec("int4", scheme="asym_incl0").format == IntFormat(bits=4, signed=False)
    assert spec("int4", scheme="sym_full").format == IntFormat(bits=4, signed=True)
    assert spec("int4", scheme="sym_narrow").format == IntFormat(bits=4, signed=True, narrow=True)
    assert spec("int4_narrow", scheme="sym_full").format.narrow
    assert spec("int4", group_size=-1).tiling == spec("int4").tiling == Tiling.channel()
    assert spec("int4", granularity="tensor").tiling == Tiling.tensor()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"range": "max"}, "unknown range rule 'max'"),
        ({"zero": None}, "unknown zero rule None"),
        ({"steps": "half_levels", "range": "minmax_with_zero"}, "half_levels"),
        ({"narrow": True, "steps": "each_end", "range": "minmax_with_zero"}, "narrow unsigned codes go with"),
        ({"signed": 0}, "True or False"),
        ({"range": "minmax"}, "without a width"),
    ],
)
def test_schemes_that_are_none(words: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(find_scheme("asym_incl0"), **words)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "words",
    [
        {"steps": 0},
        {"steps": 2.0},
        {"steps": True},
        {"max_shrink": 0.0},
        {"max_shrink": 1.1},
        {"max_shrink": 0.001},
        {"norm": 0.0},
        {"norm": float("inf")},
    ],
)
def test_clip_searches_that_are_none(words: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        ClipSearch(**words)  # type: ignore[arg-type]


def test_clip_ratios_are_those_of_the_source() -> None:
    ratios = ClipSearch().ratios
    assert (len(ratios), ratios[0], ratios[1], ratios[-1]) == (80, 1.0, 0.99, 1 - 79 / 100)


def test_damaged_texts() -> None:
    good = json.loads(spec("int4").to_json())
    for damage in (
        {key: value for key, value in good.items() if key != "nan"},
        good | {"extra": 1},
        good | {"format": "int4"},
        good | {"format": 4},
        good | {"format": None},
        good | {"scales": 4},
        good | {"scales": "e8m0"},
        good | {"format": {"bits": 4, "signed": 1}},
        good | {"format": {"bits": 4.0, "signed": False}},
        good | {"scheme": good["scheme"] | {"range": "max"}},
        good | {"scheme": good["scheme"] | {"color": "red"}},
        good | {"tiling": [0, 1]},
        good | {"tiling": 4},
        good | {"rounding": "up"},
        good | {"scale_format": ["float16"]},
        good | {"clip_search": {"steps": 10**400, "norm": "2"}},
        [],
        None,
    ):
        with pytest.raises(InputError, match="not the JSON of a quantization spec"):
            QuantSpec.from_json(json.dumps(damage))
    for text in ("", "{", "[" * 100_000, '{"range_ratio": NaN}'):
        with pytest.raises(InputError):
            QuantSpec.from_json(text)


@given(data=st.data())
def test_any_change_of_a_field_changes_the_text(data: st.DataObject) -> None:
    s, other = data.draw(specs()), data.draw(specs())
    for entry in fields(QuantSpec):
        if entry.name in ("format", "scheme", "clip_search"):
            continue
        changed = replace(s, **{entry.name: getattr(other, entry.name)})
        assert (changed.to_json() == s.to_json()) == (getattr(other, entry.name) == getattr(s, entry.name))


def test_every_scheme_is_found_by_its_name() -> None:
    for name, scheme in SCHEMES.items():
        assert scheme.name == name
        assert find_scheme(name) is scheme
        assert isinstance(scheme, Scheme)

"""Every method of ours is held to the laws that its card claims, and says why it claims no more."""

from __future__ import annotations

import pytest
from hypothesis import Phase, given, settings

from refquant.conformance.laws import LAWS, Traits, check_packing, check_quantizer
from refquant.conformance.strategies import specs
from refquant.core import spec
from refquant.errors import NumericalError
from refquant.layout.bits import pack_stream, pack_words, unpack_stream, unpack_words
from refquant.methods.catalog import METHODS, find_card
from refquant.methods.grid.rtn import rtn
from tests.conformance.own_methods import CHECKS, WITHOUT_LAWS

BLAS = "products go through BLAS, which may round differently for another layout; they held here"
TOGETHER = "iterations end for all tiles at once; without iterations it held"
# Laws that apply and held where this was written, and that a card does not claim.
UNCLAIMED: dict[str, dict[str, str]] = {
    "ia_aq": {"layout_independence": BLAS},
    "awq": {"layout_independence": BLAS},
    "duquant": {"layout_independence": BLAS},
    "quant_dllm": {"layout_independence": BLAS},
    "soloq": {"layout_independence": BLAS},
    "tac": {"layout_independence": BLAS},
    "hqq": dict.fromkeys(("row_permutation", "column_permutation", "batch_independence", "chunk_independence"), TOGETHER),
    "fair_adaptation": {"layout_independence": "FAST sums follow the memory, which shows in rows of many tokens; in short ones it held"},
}


@pytest.mark.parametrize("name", METHODS)
def test_claimed_laws_hold_and_the_others_have_a_reason(name):
    claimed = set(find_card(name).laws)
    if name in WITHOUT_LAWS:
        assert not claimed
        return
    reports = [check() for check in CHECKS[name]()]
    wrong = [line for report in reports for record in report if record.verdict == "broken" for line in record.lines()]
    assert not wrong, "\n".join(wrong)
    held = {law for report in reports for law in report.laws("held")}
    assert claimed <= held, f"claimed, and never put to the test: {sorted(claimed - held)}"
    assert held - claimed <= set(UNCLAIMED.get(name, {})), f"held, and neither claimed nor listed: {sorted(held - claimed)}"


def test_every_method_is_checked_or_says_why_not():
    assert set(CHECKS) | set(WITHOUT_LAWS) == set(METHODS)
    assert not set(CHECKS) & set(WITHOUT_LAWS)
    known = {law.name for laws in LAWS.values() for law in laws}
    for name in METHODS:
        card = find_card(name)
        assert set(card.laws) <= known, f"{name}: {sorted(set(card.laws) - known)}"
        assert len(set(card.laws)) == len(card.laws), name
        assert not set(UNCLAIMED.get(name, {})) & set(card.laws), name
    assert set(UNCLAIMED) <= set(CHECKS)


def test_a_wrong_claim_is_found():
    """The symmetric promise of a scheme that is off centre, claimed by a quantizer that has it, breaks."""
    how = spec("int4", scheme="sym_gptq")
    report = check_quantizer(lambda x: rtn(x, how), traits=Traits(symmetric=True), laws=["sign_symmetry"])
    assert report.laws("broken") == ("sign_symmetry",)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_our_streams_of_bits_are_packings(bits):
    """Codes in rows of bytes, and in rows of int32 words."""
    for pack, unpack in ((pack_stream, unpack_stream), (pack_words, unpack_words)):
        report = check_packing(
            lambda codes, pack=pack: pack(codes, bits),
            lambda packed, shape, unpack=unpack: unpack(packed, bits, shape[1]),
            format=f"uint{bits}",
            examples=15,
        )
        assert set(report.laws("held")) == {law.name for law in LAWS["packing"]}, str(report)


@pytest.mark.parametrize("count", [6, pytest.param(60, marks=pytest.mark.slow)])
def test_every_spec_keeps_the_promises_that_follow_from_it(count):
    """What `Traits.of` says of schemes, roundings and policies, tried on round to nearest itself."""
    drawn = []
    collect = settings(max_examples=count, database=None, derandomize=True, deadline=None, phases=[Phase.generate])

    @collect
    @given(specs(bits=(4, 2, 3, 8)))
    def remember(how):
        drawn.append(how)

    remember()
    for how in drawn:
        report = check_quantizer(lambda x, how=how: rtn(x, how), spec=how, refusals=(NumericalError,), examples=4)
        assert report.ok, f"{how.to_json()}\n{report}"

"""Every method of ours is held to the laws that its card claims, and says why it claims no more."""

from __future__ import annotations

import pytest

from refquant.conformance.laws import LAWS
from refquant.methods.catalog import METHODS, find_card
from tests.conformance.own_methods import CHECKS, WITHOUT_LAWS

BLAS = "products go through BLAS, which may round differently for another layout; they held here"
# Laws that apply and held where this was written, and that a card does not claim.
UNCLAIMED: dict[str, dict[str, str]] = {
    "ia_aq": {"layout_independence": BLAS},
    "awq": {"layout_independence": BLAS},
    "duquant": {"layout_independence": BLAS},
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
    from refquant.conformance.laws import Traits, check_quantizer
    from refquant.core import spec
    from refquant.methods.grid.rtn import rtn

    how = spec("int4", scheme="sym_gptq")
    report = check_quantizer(lambda x: rtn(x, how), traits=Traits(symmetric=True), laws=["sign_symmetry"])
    assert report.laws("broken") == ("sign_symmetry",)

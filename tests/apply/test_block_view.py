"""A look at a block ends where the last array that is wanted was shown, and what is seen is what a whole pass shows."""

from __future__ import annotations

import numpy as np
import pytest

from refquant.apply.block_view import BlockView
from tests.apply.tiny import recipe, tiny

NAMES = ("q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out")


class Counted:
    """A linear that tells when it is called."""

    def __init__(self, linear, name, calls):
        self.linear, self.name, self.calls = linear, name, calls

    def __call__(self, x):
        self.calls.append(self.name)
        return self.linear(x)


@pytest.mark.parametrize(
    ("wanted", "called"),
    [
        (["q_proj.input"], 0),
        (["v_proj.input", "q_proj.input"], 2),
        (["attn_out.input"], 3),
        (["up_proj.input"], 5),
        (["ff_out.input"], 6),
        (["ff_out.input", "of nobody"], 7),
    ],
)
def test_what_comes_behind_is_not_computed(wanted, called):
    m, calls = tiny(), []
    prefix = "model.transformer.blocks.1."
    counting = m.replace({prefix + name: Counted(m.linears[prefix + name], name, calls) for name in NAMES})
    hidden = [np.random.default_rng(0).standard_normal((2, 5, 16)) for _ in range(2)]
    view = BlockView(m=counting, index=1, hidden=hidden, token_weights=[None] * 2, recipe=recipe())
    found = list(view.seen([prefix + name for name in wanted]))
    assert calls == 2 * list(NAMES[:called])
    for x, seen in zip(hidden, found, strict=True):
        shown = {}
        m.block(1, x, m.context(2, 5), shown.__setitem__)
        assert set(seen) == {prefix + name for name in wanted if name != "of nobody"}
        assert all(seen[name].tobytes() == shown[name].tobytes() for name in seen)

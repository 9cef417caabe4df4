"""TMAS's draw from words: closed forms, all orders equally often, and the package on a real generator's words."""

from collections import Counter
from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from refquant.errors import InputError
from refquant.methods.diffusion.tmas import RecordedState, tmas
from refquant.oracle.state_draw import State, balanced_draw, below, shuffled

TOP = 2**64


@pytest.mark.parametrize("bound", [1, 2, 3, 10, 2**63])
def test_words_past_the_last_multiple_are_skipped(bound):
    last = TOP - TOP % bound
    skipped = [word for word in (last, TOP - 1) if last <= word < TOP]
    assert below(bound, iter([*skipped, last - 1])) == (last - 1) % bound == bound - 1


def test_no_word_is_made_up():
    with pytest.raises(InputError, match="no word is left"):
        below(3, iter([TOP - 1]))


def test_every_order_comes_equally_often():
    orders = Counter(tuple(shuffled(4, iter(words))) for words in product(range(12), repeat=4))
    assert len(orders) == 24
    assert set(orders.values()) == {12**4 // 24}


def test_blocks_take_turns_and_prompts_are_drawn_evenly():
    states = [State(prompt, block, Fraction(0), Fraction(0)) for block in (0, 1) for prompt in (0, 1) for _ in range(2)]
    chosen, taken = balanced_draw(states, [0] * 8, 4, [Fraction(1)])
    assert taken == [4]
    assert Counter(states[i].block for i in chosen) == Counter(states[i].prompt for i in chosen) == {0: 2, 1: 2}


def test_more_than_there_is_is_refused():
    with pytest.raises(InputError, match="can be given"):
        balanced_draw([State(0, 0, Fraction(0), Fraction(0))], [0], 2, [Fraction(1)])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("joint", [False, True])
def test_the_package_draws_the_same_from_a_generator(seed, joint):
    words = np.random.PCG64(seed).random_raw(200)
    lines = np.random.default_rng(seed).integers(0, 8, size=(60, 3)).tolist()
    recorded = [
        RecordedState(prompt=p, step=s, steps=8, block=b % 3, block_masked=(s * b) % 6, block_length=6, masked=s, response=18)
        for p, s, b in lines
    ]
    states = [State(r.prompt, r.block, Fraction(r.step, r.steps), 1 - Fraction(r.block_masked, r.block_length)) for r in recorded]
    shares = [Fraction(3, 10), Fraction(2, 10), Fraction(2, 10), Fraction(3, 10)]
    chosen, _ = balanced_draw(states, [int(w) for w in words], 20, shares, joint)
    assert tmas(recorded, 20, np.random.Generator(np.random.PCG64(seed)), joint=joint) == chosen

"""TMAS: which recorded states are chosen, against counting by hand and a second choice in plain loops over raw words."""

import json
import os
import subprocess
import sys
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import MT19937, PCG64, Generator, Philox

from refquant import oracle
from refquant.errors import InputError, UsageError
from refquant.methods.diffusion.tmas import RecordedState, tmas

LITERAL = [0, 5, 7, 8, 13, 14, 16, 18, 22, 24, 27, 30]  # also what the plain loops below choose


def rollout(prompts=6, steps=16, length=16, block_length=4):
    """States of full rollouts: one token a step, blocks from left to right."""
    per_block = steps * block_length // length
    return [
        RecordedState(
            prompt=prompt,
            step=t,
            steps=steps,
            block=t // per_block,
            block_masked=block_length - t % per_block * block_length // per_block,
            block_length=block_length,
            masked=length - t * length // steps,
            response=length,
        )
        for prompt in range(prompts)
        for t in range(steps)
    ]


class Words:
    """Fisher and Yates from the front, by rejection, over a list of raw 64-bit words."""

    def __init__(self, bit_generator):
        self.draw = bit_generator.random_raw

    def below(self, n):
        while True:
            word = int(self.draw())
            if word < 2**64 // n * n:
                return word % n

    def shuffled(self, items):
        items = list(items)
        for i in range(len(items)):
            j = i + self.below(len(items) - i)
            items[i], items[j] = items[j], items[i]
        return items


def chosen_in_loops(states, samples, words, bin_of, joint=False, shares=(3, 2, 2, 3)):
    """[TMAS-1] to [TMAS-4] once more, written for clarity alone."""
    bins = [[i for i, s in enumerate(states) if bin_of(s) == k] for k in range(len(shares))]
    wanted = oracle.quotas([Fraction(n, 10) for n in shares], samples, [len(b) for b in bins])
    times, result = Counter(), []
    for members, quota in zip(bins, wanted, strict=True):
        left = words.shuffled(members)

        def stratum(i):
            s = states[i]
            done = Fraction(s.block_length - s.block_masked, s.block_length)
            return (s.block, min(int(4 * done), 3)) if joint else s.block

        turn, strata = 0, sorted({stratum(i) for i in members})
        while quota:
            here = [i for i in left if stratum(i) == strata[turn % len(strata)]]
            if here:
                least = min(times[states[i].prompt] for i in here)
                pick = next(i for i in here if times[states[i].prompt] == least)
                left.remove(pick)
                times[states[pick].prompt] += 1
                result.append(pick)
                quota -= 1
            turn += 1
    return sorted(result)


def quarter_of_time(s):
    return min(int(Fraction(s.step, s.steps) * 4), 3)


def quarter_of_masks(s):
    return min(int(Fraction(s.response - s.masked, s.response) * 4), 3)


def quarter_of_block(s):
    return min(int(Fraction(s.block_length - s.block_masked, s.block_length) * 4), 3)


RULES = {"time": quarter_of_time, "mask_ratio": quarter_of_masks, "block_ratio": quarter_of_block}


class TestChoice:
    @settings(max_examples=60)
    @given(
        seed=st.integers(0, 2**32),
        prompts=st.integers(1, 7),
        steps=st.sampled_from([4, 8, 16]),
        share=st.floats(0.01, 1),
        joint=st.booleans(),
        bins=st.sampled_from(sorted(RULES)),
        thinned=st.booleans(),
    )
    def test_same_as_in_loops(self, seed, prompts, steps, share, joint, bins, thinned):
        """[TMAS-1] [TMAS-2] [TMAS-3] [TMAS-4]"""
        states = rollout(prompts, steps)
        if thinned:
            keep = np.random.default_rng(seed).random(len(states)) < 0.4
            states = [s for s, k in zip(states, keep, strict=True) if k] or states
        samples = max(1, int(share * len(states)))
        found = tmas(states, samples, Generator(PCG64(seed)), joint=joint, bins=bins)
        assert found == chosen_in_loops(states, samples, Words(PCG64(seed)), RULES[bins], joint)
        assert len(set(found)) == samples

    @pytest.mark.parametrize("kind", [PCG64, Philox])
    def test_any_bit_generator_counts_by_its_raw_words_alone(self, kind):
        states = rollout()
        assert tmas(states, 30, Generator(kind(9))) == chosen_in_loops(states, 30, Words(kind(9)), quarter_of_time)

    def test_mt19937_joins_two_words_of_32_bits(self):
        class Joined(Words):
            def __init__(self, bit_generator):
                self.draw = lambda: (int(bit_generator.random_raw()) << 32) | int(bit_generator.random_raw())

        found = tmas(rollout(), 30, Generator(MT19937(9)))
        assert found == chosen_in_loops(rollout(), 30, Joined(MT19937(9)), quarter_of_time)

    def test_one_case_literally(self):
        """These indices are part of every digest that a calibration enters: they may never change."""
        found = tmas(rollout(prompts=4, steps=8), 12, np.random.default_rng(2024))
        assert found == LITERAL
        assert found != tmas(rollout(prompts=4, steps=8), 12, np.random.default_rng(2025))

    def test_the_shares_are_those_of_the_bins(self):
        states = rollout(prompts=12, steps=32, length=32, block_length=8)
        found = Counter(quarter_of_time(states[i]) for i in tmas(states, 128, np.random.default_rng(0)))
        assert [found[k] for k in range(4)] == [38, 26, 26, 38]
        other = tmas(states, 100, np.random.default_rng(0), proportions=(1, 0, 0, 0, 1))
        assert Counter(min(states[i].step * 5 // 32, 4) for i in other) == {0: 50, 4: 50}

    def test_bins_by_time_or_by_mask_ratio(self):
        """[TMAS-1] Half of the response committed at once: time says the first quarter, the mask ratio the third."""
        states = [
            RecordedState(prompt=0, step=1, steps=8, block=0, block_masked=4, block_length=8, masked=4, response=8),
            RecordedState(prompt=1, step=7, steps=8, block=0, block_masked=8, block_length=8, masked=8, response=8),
        ]
        rng = np.random.default_rng(0)
        assert tmas(states, 1, rng, proportions=(1, 0, 0, 0)) == [0]
        assert tmas(states, 1, rng, proportions=(1, 0, 0, 0), bins="mask_ratio") == [1]
        assert tmas(states, 1, rng, proportions=(0, 0, 1, 0), bins="mask_ratio") == [0]

    def test_bins_inside_every_block(self):
        """[TMAS-1] Late in time, but the second block has only begun."""
        early = RecordedState(prompt=0, step=5, steps=8, block=1, block_masked=4, block_length=4, masked=4, response=8)
        late = RecordedState(prompt=1, step=3, steps=8, block=0, block_masked=1, block_length=4, masked=5, response=8)
        rng = np.random.default_rng(0)
        assert tmas([early, late], 1, rng, proportions=(1, 0, 0, 0), bins="block_ratio") == [0]
        assert tmas([early, late], 1, rng, proportions=(0, 0, 0, 1), bins="block_ratio") == [1]

    def test_prompts_are_balanced(self):
        """Every prompt stands in every stratum with more states than are needed: counts differ by at most 1."""
        states = rollout(prompts=5, steps=64, length=64, block_length=16)
        for samples in (1, 7, 43, 100):
            times = Counter(states[i].prompt for i in tmas(states, samples, np.random.default_rng(samples)))
            counts = [times[p] for p in range(5)]
            assert max(counts) - min(counts) <= 1

    def test_blocks_take_turns(self):
        """Four blocks inside each bin of time: a bin's draws spread over them evenly."""
        states = [
            RecordedState(prompt=p, step=t, steps=4, block=b, block_masked=1, block_length=1, masked=4 - t, response=4)
            for p in range(9)
            for t in range(4)
            for b in range(4)
        ]
        chosen = [states[i] for i in tmas(states, 40, np.random.default_rng(1))]
        for quarter, quota in enumerate((12, 8, 8, 12)):
            assert Counter(s.block for s in chosen if s.step == quarter) == dict.fromkeys(range(4), quota // 4)

    def test_joint_covers_the_quarters_of_a_block(self):
        states = [
            RecordedState(prompt=p, step=0, steps=4, block=0, block_masked=m, block_length=16, masked=m, response=16)
            for p in range(9)
            for m in range(16, 0, -1)
        ]
        joint = Counter((16 - states[i].block_masked) // 4 for i in tmas(states, 40, np.random.default_rng(1), joint=True))
        assert joint == {0: 10, 1: 10, 2: 10, 3: 10}

    def test_a_complete_response_belongs_to_the_last_bin(self):
        done = RecordedState(prompt=0, step=8, steps=8, block=0, block_masked=0, block_length=8, masked=0, response=8)
        for bins in ("time", "mask_ratio", "block_ratio"):
            assert tmas([done], 1, np.random.default_rng(0), proportions=(0, 0, 0, 1), bins=bins, joint=True) == [0]

    def test_all_states_can_be_taken(self):
        states = rollout(prompts=2, steps=8)
        assert tmas(states, 16, np.random.default_rng(0)) == list(range(16))


STATE = {"prompt": 0, "step": 0, "steps": 4, "block": 0, "block_masked": 4, "block_length": 4, "masked": 4, "response": 4}


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0}, {"step": 5}, {"step": -1}, {"block_length": 0}, {"block_masked": 5}, {"block_masked": -1},
        {"response": 0}, {"masked": 5}, {"masked": -1},
    ],
)  # fmt: skip
def test_impossible_states_are_refused(change):
    RecordedState(**STATE)
    with pytest.raises(InputError, match=f"{next(iter(change))} {next(iter(change.values()))}"):
        RecordedState(**STATE | change)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"samples": 0}, UsageError, "a positive integer, not 0"),
        ({"samples": 1.5}, UsageError, "not 1.5"),
        ({"samples": True}, UsageError, "not True"),
        ({"samples": 97}, InputError, "97 samples were asked of 96 recorded states; record more rollouts or draw fewer"),
        ({"states": []}, InputError, "1 samples were asked of 0 recorded states"),
        ({"rng": 7}, UsageError, "need a numpy.random.Generator, not int"),
        ({"proportions": (0, 0)}, UsageError, "not all 0"),
        ({"proportions": ()}, UsageError, r"got \(\)"),
        ({"proportions": (-1, 2)}, UsageError, "not negative"),
        ({"bins": "space"}, UsageError, "bins is 'time', 'mask_ratio' or 'block_ratio', not 'space'"),
    ],
)
def test_refused(change, error, message):
    with pytest.raises(error, match=message):
        tmas(**{"states": rollout(), "samples": 1, "rng": np.random.default_rng(0)} | change)


def test_threads_of_blas_do_not_matter():
    """The choice is exact: the same in a fresh process at 1 and at 2 threads."""
    program = (
        "import json, numpy as np\n"
        "from refquant.methods.diffusion.tmas import RecordedState, tmas\n"
        "states = [RecordedState(prompt=p, step=t, steps=8, block=t // 2, block_masked=4 - t % 2 * 2, block_length=4, masked=16 - 2 * t,"
        " response=16) for p in range(4) for t in range(8)]\n"
        "print(json.dumps(tmas(states, 12, np.random.default_rng(2024))))\n"
    )
    for threads in ("1", "2"):
        limits = {"OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env={**os.environ, **limits})
        assert json.loads(done.stdout) == LITERAL

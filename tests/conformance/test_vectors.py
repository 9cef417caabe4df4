"""The vectors themselves: they can be made again, the package gives them, and the folder keeps its own rules."""

import importlib
import pkgutil

import numpy as np
import pytest

import refquant.conformance.operations as folder
from refquant.conformance.case import Case
from refquant.conformance.catalog import OPERATIONS, find_operation
from refquant.conformance.folder import MANIFEST, read_vectors
from refquant.conformance.generate import make_vectors
from refquant.conformance.lint import lint
from refquant.conformance.locate import golden_directory
from refquant.conformance.operation import Operation
from refquant.conformance.verify import check_vectors
from refquant.errors import UsageError
from refquant.storage import read_json

PUBLISHED = read_json(golden_directory() / MANIFEST)["hashes"]

TAKES_SECONDS = {"format.encode", "block.mx"}
"""To make again; CI does it with all of them."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in TAKES_SECONDS else name for name in OPERATIONS])
def test_making_the_vectors_again_gives_the_published_hashes(name):
    hashes = make_vectors(find_operation(name)).hashes()
    assert hashes == {case: value for case, value in PUBLISHED.items() if case.partition("/")[0] == name}


@pytest.mark.parametrize("name", OPERATIONS)
def test_this_package_gives_what_the_vectors_expect(name):
    vectors = read_vectors(golden_directory(), name)
    assert vectors.cases
    assert check_vectors(find_operation(name), vectors) == []


def test_the_published_folder_keeps_its_rules():
    assert lint() == []


def test_the_table_and_the_folder_hold_the_same_operations():
    found = {}
    for entry in pkgutil.iter_modules(folder.__path__):
        module = importlib.import_module(f"{folder.__name__}.{entry.name}")
        for attribute, value in vars(module).items():
            if isinstance(value, Operation):
                found[value.name] = f"{module.__name__}:{attribute}"
    assert found == OPERATIONS


GOOD = {
    "operation": "rounding.floor",
    "slug": "one",
    "parameters": {},
    "inputs": {"x": np.ones(1)},
    "expected": {"y": np.ones(1)},
    "flags": ("ordinary",),
    "lane": "exact",
}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"slug": "One"}, "lower case"),
        ({"flags": ("no-such",)}, "unknown flags"),
        ({"flags": ()}, "why does it exist"),
        ({"lane": "fast"}, "lane 'fast'"),
        ({"source": "ordered"}, "twin"),
        ({"twin": "rounding.floor/two"}, "twin"),
        ({"margins": {"z": np.ones(1)}}, "no expected parts"),
        ({"margins": {"y": np.ones(2)}}, "shape"),
    ],
)
def test_a_case_that_contradicts_itself_is_refused(change, told):
    Case(**GOOD)
    with pytest.raises(UsageError, match=told):
        Case(**GOOD | change)


@pytest.mark.parametrize(
    "change",
    [
        {"parameters": {"a": 1}},
        {"flags": ("tie",)},
        {"note": "!"},
        {"inputs": {"x": -np.ones(1)}},
        {"inputs": {"x": np.ones(1, np.float32)}},
        {"inputs": {"x": np.ones((1, 1))}},
        {"expected": {"z": np.ones(1)}},
        {"margins": {"y": np.ones(1)}},
    ],
)
def test_everything_in_a_case_enters_its_hash(change):
    assert Case(**GOOD | change).digest() != Case(**GOOD).digest()


def test_memory_layout_and_byte_order_do_not():
    x = np.arange(6.0).reshape(2, 3)
    digests = {Case(**GOOD | {"inputs": {"x": array}}).digest() for array in (x, np.asfortranarray(x), x.astype(">f8"))}
    assert len(digests) == 1

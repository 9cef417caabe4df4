"""Executors by their texts: what is read, what is refused in one line, and what is loaded for them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from refquant.apply.executors import ExecutorPlan, chosen_executor
from refquant.errors import UsageError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is none of processes"),
        ("fork?workers=2", "is none of processes"),
        ("processes://here", "no address belongs behind processes"),
        ("dask", "an address belongs behind dask"),
        ("dask?workers=2", "an address belongs behind dask"),
        ("dask://", "'' is not HOST:PORT"),
        ("dask://somewhere", "'somewhere' is not HOST:PORT"),
        ("dask://host:port", "'host:port' is not HOST:PORT"),
        ("dask://host:70000", "not HOST:PORT with a port of 1 to 65535"),
        ("dask://host:8786?workers=2", "leave workers out"),
        ("processes?workers=0", "workers is '0'; allowed: 1 to 4096"),
        ("processes?workers=two", "workers is 'two'; allowed: 1 to 4096"),
        ("processes?workers=2&workers=3", "option 'workers=3'; allowed, each once"),
        ("processes?cores=2", "option 'cores=2'; allowed, each once"),
        ("processes?", "option ''; allowed"),
        ("processes?blas=-1", "blas is '-1'; allowed: 1 to 4096"),
        ("processes?files=here", "files is 'here'; allowed: shared, sent"),
    ],
)
def test_a_text_that_is_no_executor(text, says):
    with pytest.raises(UsageError, match=r"^executor '[^\n]*$") as caught:
        ExecutorPlan.read(text)
    assert says in str(caught.value)


def test_texts():
    assert ExecutorPlan.read("processes") == ExecutorPlan(kind="processes")
    assert ExecutorPlan.read("threads?workers=3&blas=2") == ExecutorPlan(kind="threads", workers=3, blas=2)
    assert ExecutorPlan.read("dask://10.0.0.1:8786") == ExecutorPlan(kind="dask", address="10.0.0.1:8786")
    assert ExecutorPlan.read("dask://[::1]:8786?files=shared") == ExecutorPlan(kind="dask", address="[::1]:8786", files="shared")
    assert ExecutorPlan.read("dask://local?workers=2&files=sent") == ExecutorPlan(kind="dask", address="local", workers=2, files="sent")
    with pytest.raises(UsageError, match="both given"):
        chosen_executor("threads", 2)


def test_dask_is_asked_for_and_not_there(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'refquant\[cluster\]'"):
        chosen_executor("dask://local", None)


def test_dask_is_loaded_only_where_it_is_asked_for():
    code = (
        "import sys\n"
        "from refquant.apply.executors import chosen_executor, open_workforce\n"
        "with open_workforce(chosen_executor('threads?workers=1', None)):\n"
        "    print([m for m in ('dask', 'distributed') if m in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.stdout == "[]\n"

"""GGUF in memory for one tensor, whatever the file holds besides."""

from __future__ import annotations

import subprocess
import sys

import pytest

from refquant.apply.exporting import export
from refquant.apply.importing import import_folder
from refquant.apply.inspecting import inspect
from tests.apply.gguf_files import peers_blocks, small_config, write_model
from tests.apply.test_large_folders import peak_of
from tests.layout.tensors import peer

WIDE = 1024
LARGEST = 256 * WIDE
PACKED = peer("gguf")["ggml.Q4_K.q"]
BLOCKS = {"Q4_K": lambda kind, shape: peers_blocks(kind, PACKED, shape)}


@pytest.mark.parametrize("kind", ["Q4_K", "F16"])
def test_memory_is_that_of_one_tensor(tmp_path, kind):
    """Three times the depth takes no more, and all of it a few bytes for each number of the largest tensor."""
    peaks = {}
    for depth in (1, 3):
        here = tmp_path / str(depth)
        here.mkdir()
        write_model(here / "m.gguf", small_config(n_layers=depth, mlp_hidden_size=WIDE), lambda name: kind, BLOCKS.get(kind))
        work = {
            "import": lambda here=here: import_folder(here / "m.gguf", here / "folder"),
            "export": lambda here=here: export(here / "folder", "gguf", here / "again"),
            "inspect": lambda here=here: list(inspect(here / "m.gguf").rows),
            "inspect the folder": lambda here=here: list(inspect(here / "folder").rows),
            "numbers": lambda here=here: import_folder(here / "m.gguf", here / "numbers", variant="dequantized"),
        }
        peaks[depth] = {name: peak_of(call) for name, call in work.items()}
        assert (here / "again" / "model.gguf").stat().st_size > LARGEST * depth
    for name, most in peaks[3].items():
        assert most < 1.2 * peaks[1][name] + 1_000_000, peaks
        assert most < 12 * LARGEST + 4_000_000, (name, most / LARGEST)


PEAK = """
import resource, sys
from pathlib import Path
from refquant.apply.exporting import export
from refquant.apply.importing import import_folder
small, large = Path(sys.argv[1]), Path(sys.argv[2])
def there_and_back(path):
    import_folder(path, path.parent / "folder")
    export(path.parent / "folder", "gguf", path.parent / "again")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
before = there_and_back(small)
print(there_and_back(large) - before)
"""


def test_a_process_grows_by_one_tensor(tmp_path):
    """What the system counts, maps included: a file of 19 MB after a small one of the same widths."""
    pytest.importorskip("resource")
    for name, depth in (("small", 1), ("large", 12)):
        (tmp_path / name).mkdir()
        write_model(tmp_path / name / "m.gguf", small_config(n_layers=depth, mlp_hidden_size=WIDE), lambda name: "F16")
    assert (tmp_path / "large" / "m.gguf").stat().st_size > 18_000_000
    words = [sys.executable, "-c", PEAK, tmp_path / "small" / "m.gguf", tmp_path / "large" / "m.gguf"]
    grown = int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    assert grown < 8_000_000

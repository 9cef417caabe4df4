"""Run the cross-checks against real programs and write docs/interop.md.

    python tools/crosscheck.py                      makes .venv-crosscheck, installs the `crosscheck` extra, runs, writes the page
    python tools/crosscheck.py --python PYTHON      uses an environment that has everything already

No GPU is used. What PyPI calls torch brings 4 GB of GPU libraries along; PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu in the
environment has pip take the one without.

The rows of the page come from the tests themselves, one JSON line each (``tests/crosscheck/conftest.py``); a test that fails or is
skipped has none, and then the page is not written.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "interop.md"
HEAD = """\
# Who reads what we write

Made by `python tools/crosscheck.py`, which installs these programs in an environment of their own and runs `pytest -m crosscheck`. *Reads
ours*: the program's own code turned our bytes back into numbers, and they are the numbers of our `dequantize`. *Writes, we read*: it
quantized, we read its arrays, got its numbers, and wrote the same bytes again. "equal" is bit for bit.

Where scales are float16, compressed-tensors multiplies in float16 and our product is rounded to float16 before it is compared.

GGUF: *quantizes* is on rows of nasty numbers; ggml's C is called through llama-cpp-python. *runs ours* is llama.cpp on the embedded model
in every type that needs no importance, compiled for AVX2, one thread, attention in float32. The result is the largest difference of a
logit, over all positions and the whole vocabulary, divided by the sequence's largest logit; the worst of all sequences. Ours is
`refquant.apply.gguf_model.load_gguf`: float64 between the linears, and what ggml does to activations before each product, to half precision
under F16 and to 8-bit codes under quantized types ([activations.py](../refquant/layout/gguf/activations.py)), and to rotary angles.

Activations of the two programs differ by float32's roundings, less than 2e-6 of the largest of their row, and where one lies that near a
tie it is rounded the other way, which moves logits by as much as a code is worth. *With its decisions* takes llama.cpp's rounding at
these places, and nowhere else: the number says how many of all activations they are. Without that, sequences agree as well until the first
such tie: most short ones under 8-bit codes, and hardly one under F16, whose small activations lie closer together than float32's noise.

*Computes as we do*: on other numbers than those recorded under `tests/data`, it came to the same scales, zero points and codes.
onnxruntime and gguf are run by `.ci/run` as well, the others by this command alone.

Found on the way: the scale of a block of zeros is 0 in what onnxruntime quantizes for MatMulNBits, which is refused here; its symmetric
scales have a sign. In compressed-tensors 0.20.0, 4-bit zero points of at most eight rows cannot be unpacked ("stride(-1) must
be 1"); `weight_g_idx`, which older releases wrote, is no longer looked at, so groups in activation order are not exported to it.

| layout | program | version | direction | result | covers |
|---|---|---|---|---|---|
"""


def made_environment(folder: Path) -> Path:
    """The Python of an environment with the extra installed."""
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    # llama-cpp-python compiles llama.cpp, six minutes on two processors, and by default for the processor that it believes to see.
    flags = "-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DLLAVA_BUILD=OFF"
    environment = {"CMAKE_ARGS": flags, **os.environ}
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    # Apart and not from pip's cache, whose key knows nothing of CMAKE_ARGS: a wheel that somebody built with other flags may stop at an
    # instruction that the processor lacks.
    subprocess.run([*pip, "--no-cache-dir", "--no-binary", "llama-cpp-python", "llama-cpp-python>=0.3.36"], check=True, env=environment)
    subprocess.run([*pip, "-e", f"{ROOT}[crosscheck]"], check=True)
    # Its setup looks for torch, which is there now, and would compile for GPUs; what is compared is its layer in torch.
    subprocess.run([*pip, "setuptools", "wheel"], check=True)
    subprocess.run([*pip, "--no-build-isolation", "gptqmodel>=7.7"], check=True, env={"BUILD_CUDA_EXT": "0", **os.environ})
    return python


def main() -> int:
    parser = argparse.ArgumentParser(description="Cross-check against real programs.")
    parser.add_argument("--python", help="an environment's Python that has the crosscheck extra")
    parser.add_argument("--environment", type=Path, default=ROOT / ".venv-crosscheck", help="where to make one otherwise")
    parser.add_argument("--check", action="store_true", help="run, and do not write the page")
    options = parser.parse_args()
    python = options.python or str(made_environment(options.environment))
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        environment = os.environ | {"REFQUANT_CROSSCHECK_ROWS": str(rows)}
        # Their warnings are theirs.
        words = [python, "-m", "pytest", "-m", "crosscheck", "-n", "0", "-W", "default", "-rs", "tests/crosscheck"]
        done = subprocess.run(words, cwd=ROOT, env=environment, check=False)
        found = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()] if rows.exists() else []
    if done.returncode or not found:
        print("not every cross-check passed; docs/interop.md is left as it was", file=sys.stderr)
        return done.returncode or 1
    columns = ("layout", "reader", "version", "direction", "result", "note")
    lines = sorted("| " + " | ".join(str(row[name]) for name in columns) + " |" for row in found)
    if not options.check:
        PAGE.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`refquant inspect` as typed."""

from __future__ import annotations

import re


def test_a_folder(run, quantized):
    ran = run("inspect", quantized)
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    assert lines[0] == "quantized folder"
    assert re.search(r"14 linears quantized, \d+\.\d{3} bits a weight$", lines[-1])
    line = next(line for line in lines if "blocks.0.q_proj " in line)
    assert re.search(r"16x16  .* bits  values \S+\.\.\S+  scales \S+\.\.\S+ .*\|.{16}\|  [0-9a-f]{12}$", line), line


def test_some_tensors_for_programs(run, quantized):
    tree = run("inspect", quantized, "--only", "ff_out", "--format", "json").json
    assert tree["kind"] == "quantized folder"
    assert all("ff_out" in tensor["name"] for tensor in tree["tensors"])
    assert {"scales", "histogram", "sha256", "bits_per_weight"} <= set(tree["tensors"][0])


def test_refusals(run, quantized, tmp_path):
    assert run("inspect", "nowhere").code == 3
    ran = run("inspect", quantized, "--only", "magic")
    assert ran.code == 3
    assert "'magic'" in ran.err
    (tmp_path / "here" / "noise.safetensors").write_bytes(b"\xff" * 64)
    ran = run("inspect", "noise.safetensors")
    assert ran.code == 3
    assert ran.err.count("\n") == 1

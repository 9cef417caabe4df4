"""`refquant generate`: the response on stdout is the sampler's, and stderr shows how it came about."""

from __future__ import annotations

import numpy as np

import model
from refquant.apply.checkpoint import load
from refquant.apply.rollout import RawUniforms

PROMPT = "In the beginning"


def expected(folder, length, **options):
    """What the sampler gives, called as a function."""
    m, tokenizer = load(folder), model.Tokenizer.from_directory(folder)
    ids = [0, *tokenizer.encode(PROMPT)]
    found = model.generate(m, [ids], gen_length=length, **options)[0, len(ids) :].tolist()
    return tokenizer.decode(found[: found.index(1)] if 1 in found else found) + "\n"


def test_the_response_is_the_sampler_s(run):
    ran = run("generate", "--prompt", PROMPT, "--gen-length", 8)
    assert ran.code == 0
    assert ran.out == expected(model.embedded_directory(), 8, block_length=8, steps=8)


def test_settings_reach_the_sampler(run):
    ran = run("generate", "--prompt", PROMPT, "--gen-length", 8, "--block-length", 4, "--steps", 4, "--temperature", 1, "--cfg-scale", 0.5)
    rng = RawUniforms(np.random.Generator(np.random.PCG64(0)))
    options = {"block_length": 4, "steps": 4, "temperature": 1.0, "cfg_scale": 0.5, "rng": rng}
    assert ran.out == expected(model.embedded_directory(), 8, **options)
    typed = ["generate", "--prompt", PROMPT, "--gen-length", 8, "--temperature", 1]
    assert run(*typed, "--seed", 1).out != run(*typed, "--seed", 2).out
    assert run(*typed, "--seed", 1).out == run(*typed, "--seed", 1).out


def test_a_quantized_folder_answers_as_it_is(run, quantized, checkpoint):
    typed = ["--prompt", PROMPT, "--gen-length", 24]
    ran = run("generate", quantized, *typed)
    assert ran.out == expected(quantized, 24, block_length=24, steps=24)
    assert ran.out != run("generate", checkpoint, *typed).out


def test_tokens_fill_in_line_by_line(run):
    ran = run("generate", "--prompt", PROMPT, "--gen-length", 6, "--steps", 3)
    lines = ran.err.splitlines()
    assert [line.split()[0] for line in lines] == ["1/3", "2/3", "3/3"]
    assert [line.count("\u2591") for line in lines] == [4, 2, 0]
    assert run("generate", "--prompt", PROMPT, "--gen-length", 6, "--no-show").err == ""


def test_an_end_of_text_ends_the_output_and_is_shown(run):
    ran = run("generate", "--prompt", "Q: 58+93=?\nA:", "--gen-length", 12)
    assert ran.out == " 58+93=151\n"
    assert "<|endoftext|>" in ran.err.splitlines()[-1]

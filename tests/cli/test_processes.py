"""What only a process of its own can show: start-up, signals, pipes, and a user's files beside the script."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

COMMANDS = ["quantize", "evaluate", "generate", "methods", "explain"]


def start(*words, cwd, **options):
    return subprocess.Popen([sys.executable, "-m", "refquant", *map(str, words)], cwd=cwd, text=True, **options)


def finished(*words, cwd, **options):
    process = start(*words, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def test_help_loads_no_numpy(tmp_path):
    code = (
        "import sys; sys.argv = ['refquant', '--help']\n"
        "import refquant.cli\n"
        "try:\n    refquant.cli.main()\n"
        "finally:\n    print('LOADED', [m for m in ('numpy', 'scipy', 'rich', 'tokenizers') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "LOADED []" in done.stderr
    assert all(command in done.stdout for command in COMMANDS)


def test_without_a_command_the_help_is_shown(tmp_path):
    code, out, err = finished(cwd=tmp_path)
    assert (code, err) == (0, "")
    assert out == finished("--help", cwd=tmp_path)[1]


def test_a_file_of_the_user_called_model(tmp_path):
    (tmp_path / "model.py").write_text("raise SystemExit('the wrong model')\n")
    code, out, err = finished("quantize", cwd=tmp_path)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert str(tmp_path / "model.py") in err
    assert "rename" in err


def test_a_reader_that_goes_away(tmp_path):
    process = start("explain", "gptq", cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()  # before anything is written
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 141
    assert err == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_disk_that_is_full(tmp_path):
    with open("/dev/full", "w") as full:
        process = start("explain", "gptq", cwd=tmp_path, stdout=full, stderr=subprocess.PIPE)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 3
    assert err.count("\n") == 1
    assert "No space left" in err


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_an_interrupt_leaves_nothing_behind(tmp_path):
    process = start("quantize", "--full", cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    first = process.stderr.readline()  # the first line of progress: the work has begun
    assert "%" in first
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_narrow_character_set_is_no_traceback(checkpoint, tmp_path):
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    code, out, err = finished("methods", cwd=tmp_path, env=environment)
    assert (code, err) == (0, "")
    assert out.isascii()
    code, out, err = finished("generate", "--prompt", "a", "--gen-length", 2, cwd=tmp_path, env=environment)
    assert code == 0
    assert err.isascii()
    assert "_" in err


def test_the_script_and_the_module_are_the_same(tmp_path):
    script = os.path.join(os.path.dirname(sys.executable), "refquant")
    if not os.path.exists(script):
        pytest.skip("refquant is not installed as a script here")
    done = subprocess.run([script, "methods", "--format", "json"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == finished("methods", "--format", "json", cwd=tmp_path)[1]


def test_progress_in_a_pipe_is_plain_lines_on_stderr(checkpoint, tmp_path):
    code, out, err = finished("quantize", checkpoint, "--quick", "--format", "json", cwd=tmp_path)
    assert code == 0
    assert "\x1b" not in err
    assert "\r" not in err
    assert out.count("\n") == 1
    assert out.startswith("{")
    assert err.splitlines()[-1].startswith("refquant: done in ")

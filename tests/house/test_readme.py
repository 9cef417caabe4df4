"""What the documentation tells people to type works: the two lines of README are what CI runs, and examples give what they show."""

from __future__ import annotations

import doctest
import re
import shlex
import subprocess
import sys

import pytest

FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
BLOCK = re.compile(r"^```([\w-]*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\$ (?:python -m )?refquant +([a-z]+)([^\n]*)", re.MULTILINE)


def blocks(text, *languages):
    return [body for language, body in BLOCK.findall(text) if not languages or language in languages]


@pytest.fixture(scope="session")
def readme(root):
    return (root / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def pages(root):
    """Every page that people read, by its name."""
    found = [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").rglob("*.md"))]
    return {p.relative_to(root).as_posix(): p.read_text(encoding="utf-8") for p in found}


@pytest.fixture(scope="session")
def run_script(root):
    return (root / ".ci" / "run").read_text(encoding="utf-8")


def constant(script, name):
    """The value that a shell script gives a variable in a line of its own."""
    value = re.search(rf"^{name}=(.*)$", script, re.MULTILINE)
    assert value, f".ci/run has no line {name}=..."
    return shlex.split(value[1])[0]


def test_ci_runs_the_two_lines_of_the_readme(readme, run_script):
    first_screen = "\n".join(readme.splitlines()[:40])
    lines = [line.removeprefix("$ ").strip() for body in blocks(first_screen) for line in body.splitlines()]
    assert next((x for x in lines if "pip install ." in x), None) == constant(run_script, "readme_first")
    assert next((x for x in lines if "pip install '.[test]'" in x), None) == constant(run_script, "readme_second")
    assert 'eval "$readme_second"' in run_script
    assert run_script.count("$readme_first") + run_script.count("${readme_first") == 2  # the installation and the command


def test_examples_in_pages_give_what_they_show(pages):
    """Blocks marked ``pycon`` of one page share their names, as if typed one after the other."""
    failures = []
    for name, text in pages.items():
        source = "\n".join(blocks(text, "pycon"))
        test = doctest.DocTestParser().get_doctest(source, {}, name, name, 0)
        doctest.DocTestRunner(optionflags=FLAGS, verbose=False).run(test, out=failures.append)
    assert not failures, "\n".join(failures)


GROUPS = ("study", "golden")
"""Commands whose options are those of a command behind them."""


def whole_command(command, rest):
    """``study`` and `` qdlm --quick`` make ``study qdlm``."""
    behind = rest.split()[:1] if command in GROUPS else []
    return " ".join([command, *(word for word in behind if word.isidentifier())])


def help_page(command):
    line = [sys.executable, "-m", "refquant", *command.split(), "--help"]
    return subprocess.run(line, check=False, capture_output=True, text=True, timeout=120)


def test_commands_in_pages_exist_with_their_options(pages):
    found = [(name, *match) for name, text in pages.items() for body in blocks(text) for match in COMMAND.findall(body)]
    used = [(name, whole_command(command, rest), rest) for name, command, rest in found]
    shown = {command: help_page(command) for command in sorted({command for _, command, _ in used})}
    faults = []
    for name, command, rest in used:
        if shown[command].returncode:
            faults.append(f"{name}: there is no command refquant {command}")
            continue
        options = [word.partition("=")[0] for word in shlex.split(rest, comments=True) if word.startswith("--")]
        faults += [f"{name}: refquant {command} has no {o}" for o in options if not re.search(rf"{o}\b", shown[command].stdout)]
    assert not faults, "\n".join(faults)


def test_links_between_pages_lead_somewhere(pages, root):
    faults = []
    for name, text in pages.items():
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            if "://" not in target and not (root / name).parent.joinpath(target).exists():
                faults.append(f"{name}: {target} does not exist")
    assert not faults, "\n".join(faults)


def test_every_page_is_in_the_index(pages):
    index = pages["docs/index.md"]
    missing = [p for p in pages if p.startswith("docs/") and p != "docs/index.md" and f"({p.removeprefix('docs/')})" not in index]
    assert not missing, "\n".join(missing)

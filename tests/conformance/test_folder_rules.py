"""A folder of vectors: written whole, read back, and linted; every rule of lint goes red when it is broken."""

import json
import shutil

import numpy as np
import pytest

from refquant.conformance import generate, ledger
from refquant.conformance.case import Case
from refquant.conformance.catalog import find_operation
from refquant.conformance.difference import differences_between
from refquant.conformance.folder import MANIFEST, Vectors, read_vectors, root_hash
from refquant.conformance.generate import write_golden
from refquant.conformance.ledger import reasons, unexplained
from refquant.conformance.lint import _twin, lint
from refquant.conformance.locate import golden_directory
from refquant.conformance.schema import faults
from refquant.conformance.verify import file_damage, verify
from refquant.errors import InputError
from refquant.storage import digest, read_json, write_tensors

FLOOR = "rounding.floor"


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """One operation, so that reading is quick."""
    return write_golden(tmp_path_factory.mktemp("vectors") / "small", [FLOOR]).folder


@pytest.fixture
def golden(small, tmp_path):
    return shutil.copytree(small, tmp_path / "golden")


def rewritten(folder, name, change):
    """Change the JSON of one operation and give it to the manifest as if all were well."""
    path = folder / f"{name}.json"
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][path.name] = digest(path.read_bytes())
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_what_is_written_is_read_back():
    for name in (FLOOR, "gptq.codes", "uniform.dequantize"):
        vectors = read_vectors(golden_directory(), name)
        assert vectors.to_text() == (golden_directory() / f"{name}.json").read_text()
        made = generate.make_vectors(find_operation(name))
        assert {case: c.digest() for case, c in made.cases.items()} == {case: c.digest() for case, c in vectors.cases.items()}


def test_writing_again_changes_no_byte_and_adds_nothing_to_the_ledger(golden):
    before = {path.name: path.read_bytes() for path in golden.iterdir()}
    written = write_golden(golden, [FLOOR])
    assert {path.name: path.read_bytes() for path in golden.iterdir()} == before
    assert (written.new, written.changed, written.vanished) == (0, (), ())
    assert sorted(path.name for path in golden.parent.iterdir()) == ["golden"]


def test_a_failure_leaves_the_old_folder(golden, monkeypatch):
    before = {path.name: path.read_bytes() for path in golden.iterdir()}
    monkeypatch.setattr(generate, "manifest_text", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_golden(golden, [FLOOR])
    assert {path.name: path.read_bytes() for path in golden.iterdir()} == before
    assert sorted(path.name for path in golden.parent.iterdir()) == ["golden"]


def test_a_folder_of_something_else_is_not_replaced(tmp_path):
    (tmp_path / "letters").mkdir()
    with pytest.raises(InputError, match="no folder of golden vectors"):
        write_golden(tmp_path / "letters", [FLOOR])


def test_the_root_hash_needs_nothing_but_the_files():
    """As somebody without this package computes it."""
    golden, lines = golden_directory(), {}
    for path in golden.glob("*.json"):
        if path.name in (MANIFEST, "schema.json"):
            continue
        tree = json.loads(path.read_text())
        for case in tree["cases"]:
            stated = case.pop("sha256")
            assert digest(json.dumps(case, sort_keys=True, separators=(",", ":"))) == stated
            lines[case["id"]] = stated
        for stream in tree["streams"]:
            lines[stream["id"]] = digest(json.dumps(stream, sort_keys=True, separators=(",", ":")))
    assert read_json(golden / MANIFEST)["root"] == digest("".join(f"{name} {lines[name]}\n" for name in sorted(lines)))


def test_damage_is_found(golden):
    path = golden / f"{FLOOR}.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    assert file_damage(golden) == [f"{FLOOR}.safetensors: its SHA-256 is not the manifest's"]
    with pytest.raises(InputError, match="not those that its entry describes"):
        verify(golden)


def test_an_absent_file_is_found(golden):
    (golden / f"{FLOOR}.json").unlink()
    assert file_damage(golden) == [f"{FLOOR}.json: absent"]


def without(key):
    return lambda tree: tree["cases"][0].pop(key)


def with_value(key, value):
    return lambda tree: tree["cases"][0].__setitem__(key, value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (without("flags"), "has no 'flags'"),
        (with_value("flags", []), "at least 1"),
        (with_value("lane", "fast"), "allowed are exact"),
        (with_value("more", 1), "does not know"),
        (with_value("sha256", "abc"), "does not match"),
        (with_value("rules", {"y": {"kind": "near"}}), "allowed are bytes"),
        (lambda tree: tree.__setitem__("schema", 2), "1 is needed"),
        (lambda tree: tree["streams"][0].__setitem__("rows", 0), "at least 1"),
    ],
)
def test_lint_holds_the_schema(golden, change, told):
    rewritten(golden, FLOOR, change)
    assert any(told in finding for finding in lint(golden)), lint(golden)


def test_lint_holds_the_declaration(golden):
    rewritten(golden, FLOOR, lambda tree: tree["operation"].__setitem__("doc", "something else"))
    assert any("declaration changed" in finding for finding in lint(golden))


def test_lint_wants_a_twin_from_the_oracle():
    good = next(find_operation(FLOOR).cases())
    fields = {"parameters": {}, "inputs": good.inputs, "expected": good.expected, "flags": good.flags, "lane": "ordered"}
    large = Case(operation=FLOOR, slug="large", **fields, source="ordered", twin=good.id)
    other = Case(operation=FLOOR, slug="other", **fields, source="ordered", twin=large.id)
    cases = {case.id: case for case in (good, large, other)}
    assert list(_twin(large, cases)) == []
    assert "does not exist" in next(_twin(large, {}))
    assert "no case of" in next(_twin(other, cases))


def test_a_changed_value_needs_a_reason(golden):
    hashes = dict(read_json(golden / MANIFEST)["hashes"])
    name = f"{FLOOR}/f32-ties"
    hashes[name] = "0" * 64
    assert "is not in ledger.txt" in unexplained(golden, hashes)[0]
    with (golden / ledger.LEDGER).open("a") as file:
        file.write(f"{'0' * 16} {name}\n")
    (finding,) = unexplained(golden, hashes)
    assert "changed" in finding
    with (golden / ledger.CHANGES).open("a") as file:
        file.write("\n- `rounding.*/f32-ties`: they were no ties\n")
    assert unexplained(golden, hashes) == []


def test_a_vanished_id_needs_a_reason_and_is_never_forgotten(golden):
    hashes = dict(read_json(golden / MANIFEST)["hashes"])
    del hashes[f"{FLOOR}/f32-ties"]
    (finding,) = unexplained(golden, hashes)
    assert "vanished" in finding
    with (golden / ledger.CHANGES).open("a") as file:
        file.write(f"- `{FLOOR}/f32-ties`, `a.b/c`: told twice\n")
    assert unexplained(golden, hashes) == []


def test_one_reason_does_not_serve_two_changes(golden):
    hashes = dict(read_json(golden / MANIFEST)["hashes"])
    name = f"{FLOOR}/f32-ties"
    with (golden / ledger.LEDGER).open("a") as file:
        file.write(f"{'1' * 16} {name}\n{hashes[name][:16]} {name}\n")
    with (golden / ledger.CHANGES).open("a") as file:
        file.write(f"- `{name}`: once\n")
    assert "changed 2 times" in unexplained(golden, hashes)[0]


def test_the_page_of_changes_is_read_line_by_line():
    text = "# Changes\n\ntext\n- `a.b/*`: why\n- no id: nothing\n- `c.d/x`, `c.d/y`: both\n"
    assert reasons(text) == [(("a.b/*",), "why"), (("c.d/x", "c.d/y"), "both")]


def test_a_damaged_ledger_is_refused(golden):
    with (golden / ledger.LEDGER).open("a") as file:
        file.write("hello\n")
    with pytest.raises(InputError, match=r"ledger.txt, line"):
        lint(golden)


def test_differences_are_told_to_the_element(small, golden):
    vectors = read_vectors(golden, FLOOR)
    old = vectors.cases[f"{FLOOR}/f32-ties"]
    y = np.array(old.expected["y"])
    y[3] += 1
    fields = {"operation": FLOOR, "slug": "f32-ties", "parameters": {}, "inputs": old.inputs, "flags": old.flags, "lane": "exact"}
    cases = {**vectors.cases, old.id: Case(**fields, expected={"y": y})}
    del cases[f"{FLOOR}/f32-large"]
    changed = Vectors(operation=FLOOR, declaration=vectors.declaration, cases=cases, streams=vectors.streams)
    (golden / f"{FLOOR}.json").write_text(changed.to_text())
    write_tensors(golden / f"{FLOOR}.safetensors", changed.tensors())
    found = {difference.id: difference for difference in differences_between(small, golden)}
    assert {name: d.kind for name, d in found.items()} == {old.id: "changed", f"{FLOOR}/f32-large": "removed"}
    (what,) = found[old.id].what
    assert what == f"expected/y: 1 of {y.size}, first at (3,): {old.expected['y'][3]} became {y[3]}"
    report = verify(golden)
    assert not report.ok
    assert [mismatch.index for mismatch in report.mismatches[FLOOR]] == [(3,)]


def test_order_does_not_enter_the_root_hash_and_ids_do():
    assert root_hash({"a": "1", "b": "2"}) == root_hash({"b": "2", "a": "1"}) != root_hash({"a": "2", "b": "1"})


def test_a_schema_with_an_unknown_keyword_is_refused():
    with pytest.raises(InputError, match="'oneOf'"):
        list(faults({}, {"oneOf": []}))
    with pytest.raises(InputError, match="does not define"):
        list(faults({}, {"$ref": "#/$defs/a"}))

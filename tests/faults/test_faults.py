"""Every fault of the catalogue, put into a copy of the repository, fails the fast tests named for it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.faults.catalogue import FAULTS
from tests.faults.fault import Fault

ROOT = Path(__file__).parents[2]
COPIED = ("cassr_jax", "tests", "configs", "examples", "README.md", "pyproject.toml", "sample.py", "train.py")


def name(fault: Fault) -> str:
    return f"{fault.file}: {fault.text.strip()} -> {fault.faulty.strip()}"


def with_fault(fault: Fault, sound: str) -> str:
    return sound.replace(fault.text, fault.faulty)


@pytest.mark.parametrize("fault", FAULTS, ids=name)
def test_the_text_to_change_occurs_once(fault):
    sound = (ROOT / fault.file).read_text("utf-8")
    count = sound.count(fault.text)
    assert count == 1, f"{fault.file}: found {fault.text!r} {count} times, expected once; adapt the fault to the code"
    compile(with_fault(fault, sound), fault.file, "exec")  # what no one could run, any test would catch
    for test in fault.tests:
        file, _, function = test.partition("::")
        function = function.rpartition("::")[2].partition("[")[0]
        assert f"def {function}" in (ROOT / file).read_text("utf-8"), f"{test}: no such test"


def test_no_fault_stands_twice():
    changes = [(fault.file, fault.text, fault.faulty) for fault in FAULTS]
    assert len(set(changes)) == len(changes)


def run_tests(root: Path, tests: tuple[str, ...]) -> int:
    """pytest's exit code: 0 all pass, 1 some fail, more where it could not run them."""
    named = all("::" in test for test in tests)  # which may be slow
    marks = "not reference" if named else "not slow and not reference"
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", marks]
    environment = os.environ | {"PYTHONPATH": str(root)}
    return subprocess.run([*command, *tests], cwd=root, env=environment, capture_output=True, check=False).returncode


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("faults")
    for entry in COPIED:
        source = ROOT / entry
        if source.is_dir():
            shutil.copytree(source, root / entry, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, root / entry)
    return root


@pytest.fixture(scope="module")
def passes_without_fault(copy: Path) -> Callable[[tuple[str, ...]], bool]:
    return cache(lambda tests: run_tests(copy, tests) == 0)


@pytest.mark.slow
@pytest.mark.parametrize("fault", sorted(FAULTS, key=lambda fault: fault.tests), ids=name)
def test_the_fault_is_caught(fault, copy, passes_without_fault, capsys):
    # Without this, a test that fails for another reason would pass for one that catches.
    assert passes_without_fault(fault.tests), f"{', '.join(fault.tests)}: fails without any fault"
    file = copy / fault.file
    sound = file.read_text("utf-8")
    file.write_text(with_fault(fault, sound), "utf-8")
    try:
        caught = run_tests(copy, fault.tests) == 1
    finally:
        file.write_text(sound, "utf-8")
    with capsys.disabled():
        print(f"\n{'caught' if caught else 'SURVIVED':9} {name(fault)!r}", flush=True)
    assert caught

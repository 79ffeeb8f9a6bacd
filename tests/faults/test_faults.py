"""Every fault of the catalogue, put into a copy of the repository, fails the fast tests named for it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.catalogue import FAULTS, Fault

ROOT = Path(__file__).parents[2]
COPIED = ("cassr_jax", "tests", "configs", "examples", "pyproject.toml", "sample.py", "train.py")


def names(fault: Fault) -> str:
    return f"{fault.file}: {fault.text.strip()}"


@pytest.mark.parametrize("fault", FAULTS, ids=names)
def test_the_text_to_change_occurs_once(fault):
    count = (ROOT / fault.file).read_text("utf-8").count(fault.text)
    assert count == 1, f"{fault.file}: found {fault.text!r} {count} times, expected once; adapt the fault to the code"
    for test in fault.tests:
        file, _, name = test.partition("::")
        assert f"def {name.partition('[')[0]}" in (ROOT / file).read_text("utf-8"), f"{test}: no such test"


def run_tests(root: Path, tests: tuple[str, ...]) -> int:
    """pytest's exit code: 0 all pass, 1 some fail, more where it could not run them."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not slow and not reference"]
    environment = os.environ | {"PYTHONPATH": str(root)}
    return subprocess.run([*command, *tests], cwd=root, env=environment, capture_output=True, check=False).returncode


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("faults")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, root / name)
    return root


@pytest.mark.slow
def test_every_fault_is_caught(copy, capsys):
    # Without this, a test that fails for another reason would pass for one that catches.
    for tests in sorted({fault.tests for fault in FAULTS}):
        assert run_tests(copy, tests) == 0, f"{', '.join(tests)}: fails without any fault"
    survived = []
    for fault in sorted(FAULTS, key=lambda fault: fault.tests):
        file = copy / fault.file
        sound = file.read_text("utf-8")
        file.write_text(sound.replace(fault.text, fault.faulty), "utf-8")
        code = run_tests(copy, fault.tests)
        file.write_text(sound, "utf-8")
        caught = code == 1
        survived += [] if caught else [names(fault)]
        with capsys.disabled():
            print(f"{'caught' if caught else 'SURVIVED':9} {names(fault)!r} -> {fault.faulty.strip()!r}", flush=True)
    assert not survived

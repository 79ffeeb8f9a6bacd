"""The project's code as a whole: its parts import in one direction, and what they import is declared."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# The links in cassr_jax/programs lead to the scripts.
MODULES = sorted(path for path in (ROOT / "cassr_jax").rglob("*.py") if not path.is_symlink())
SCRIPTS = [ROOT / "sample.py", ROOT / "train.py"]

# What every part may import.
BASE = {"buckets", "compiled", "errors", "extras", "choices", "typing", "files", "locks", "printing"}
# The other parts of the package, folders and modules, that each part may import: all of them, and in no circle.
ALLOWED: dict[str, set[str]] = {
    "ranges": set(),
    "outcomes": set(),
    "restoration": {"imaging"},
    "progress": set(),
    "seeds": {"ranges"},
    "models": set(),
    "diffusion": set(),
    "imaging": set(),
    "sharding": {"models"},
    "weights": {"models", "ranges"},
    "data": {"imaging", "ranges"},
    "first_stage": {"models"},
    "control": {"models"},
    "second_stage": {"control", "models"},
    "kinds": {"models", "weights"},
    "networks": {"kinds", "models", "weights"},
    "prompts": {"models", "weights"},
    "config": {"data", "diffusion", "first_stage", "models", "sharding", "weights"},
    "config_files": {"config", "kinds", "sharding"},
    "schedules": {"diffusion", "kinds", "weights"},
    "fitting": {"models", "weights"},
    "gathering": {"kinds", "weights"},
    "options": {"config", "diffusion", "first_stage", "imaging", "progress", "ranges", "second_stage"},
    "sampling": {"config", "diffusion", "imaging", "models"},
    "engine": {"config", "diffusion", "imaging", "models", "networks", "sampling", "sharding"},
    "cascade": {
        "config", "control", "engine", "first_stage", "imaging", "models", "networks", "options", "outcomes",
        "restoration", "prompts", "sampling", "progress", "second_stage", "seeds", "sharding",
    },
    "inventory": {"config_files", "gathering", "kinds", "loading", "schedules", "training", "weights"},
    "hub": {"loading", "weights"},
    "conversion": {"diffusion", "inventory", "kinds", "models", "weights"},
    "loading": {
        "cascade", "config", "config_files", "control", "engine", "first_stage", "fitting", "gathering", "imaging",
        "kinds", "networks", "prompts", "ranges", "sampling", "schedules", "second_stage", "weights",
    },
    "training": {
        "config", "config_files", "control", "data", "diffusion", "first_stage", "fitting", "gathering", "imaging",
        "kinds", "loading", "models", "networks", "prompts", "ranges", "sampling", "schedules", "second_stage", "seeds",
        "sharding", "weights",
    },
    "sampling_ahead": {
        "cascade", "config", "config_files", "diffusion", "engine", "first_stage", "fitting", "kinds", "networks",
        "options", "prompts", "ranges", "restoration", "sampling", "second_stage", "sharding", "weights",
    },
    "evaluation": {"data", "imaging", "models", "sharding", "weights"},
}  # fmt: skip
# Programs, which stand on top of everything: the folder of commands, and these.
COMMANDS = {"evaluation/__main__.py", "evaluation/cascades.py", "sharding/plan.py", "weights/__main__.py", "hub.py"}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", MODULES + SCRIPTS, ids=relative)
def test_module_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text("utf-8")))


def test_every_part_has_its_place_and_no_two_stand_on_each_other():
    parts = {path.relative_to(ROOT / "cassr_jax").parts[0].removesuffix(".py") for path in MODULES}
    assert parts - {"__init__", "commands", "demo", "programs"} == BASE | ALLOWED.keys()
    assert len(list(TopologicalSorter(ALLOWED).static_order())) == len(ALLOWED)  # raises on a circle


@pytest.mark.parametrize("part", ALLOWED)
def test_imports_point_one_way(part):
    files = sorted((ROOT / "cassr_jax").glob(f"{part}.py")) + sorted((ROOT / "cassr_jax" / part).rglob("*.py"))
    assert files
    wrong = {
        f"{relative(path)} imports {name}"
        for path in files
        if path.relative_to(ROOT / "cassr_jax").as_posix() not in COMMANDS
        for name in imported(path)
        if name.startswith("cassr_jax.") and name.split(".")[1] not in {part} | BASE | ALLOWED[part]
    }
    assert wrong == set()


def test_paths_are_looked_up_in_one_way():
    """`Path.exists` and its like raise OSError for a name that is too long, and in a folder that may not be entered."""
    call = re.compile(r"\.(exists|is_file|is_dir)\b")
    files = [path for path in MODULES + SCRIPTS if call.search(path.read_text("utf-8"))]
    assert list(map(relative, files)) == []


def test_everything_is_printed_in_one_way():
    """`print` and tqdm's own bar end the program once the reader of a pipe has gone."""
    call = re.compile(r"\b(print|tqdm)\(")
    files = [path for path in MODULES + SCRIPTS if call.search(path.read_text("utf-8"))]
    assert list(map(relative, files)) == ["cassr_jax/printing.py"]


EXTRA = {"commands": "eval", "data": "train", "demo": "demo", "evaluation": "eval", "training": "train"}
"""The extra that the modules of a folder may need; all others run with the package's own dependencies."""


def test_everything_imported_is_a_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

    def named(requirements: list[str]) -> set[str]:
        return {re.split(r"[^\w.-]", requirement)[0].lower() for requirement in requirements}

    extras = {name: named(requirements) for name, requirements in project["optional-dependencies"].items()}
    extras["eval"] |= extras["train"]
    always = named(project["dependencies"])
    packages = {name: {d.lower() for d in found} for name, found in importlib.metadata.packages_distributions().items()}
    for path in MODULES + SCRIPTS:
        declared = always | extras.get(EXTRA.get(path.parent.name, ""), set())
        declared |= extras["heif"] if path.name == "decoding.py" else set()
        ours = {"cassr_jax", "_typeshed"}  # the second is the type checker's own, which nothing imports at run time
        for name in {name.split(".")[0] for name in imported(path)} - ours - sys.stdlib_module_names:
            if name == "gradio" and name not in packages:
                continue  # an extra that is not installed here
            distributions = {d.replace("_", "-") for d in packages[name]}
            assert distributions & declared, f"{relative(path)} imports {name}, of {distributions}"


def test_the_lock_file_holds_every_dependency_and_no_torch():
    locked = {
        re.split(r"[=\s@]", line)[0].lower().replace("_", "-"): line
        for line in (ROOT / "requirements.lock").read_text("utf-8").splitlines()
        if line and not line.startswith("#")
    }
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in locked.values())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for requirement in project["dependencies"] + project["optional-dependencies"]["test"]:
        assert re.split(r"[^\w.-]", requirement)[0].lower() in locked | {"cassr-jax": "its own extras"}
    assert not [name for name in locked if name.startswith(("torch", "nvidia", "cassr"))]


IMPORT_ALL = """
import importlib, sys
for name in sys.argv[1].split():
    importlib.import_module(name)
print(*sorted({"torch", "diffusers", "transformers", "tensorflow"} & set(sys.modules)))
"""
IMPORT_PICTURES = "import sys, sample, cassr_jax.imaging.io; print(*sorted({'jax', 'flax'} & set(sys.modules)))"


def run_python(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_no_other_framework_is_imported():
    modules = [path for path in MODULES if path.name != "page.py" or path.parent.name != "demo"]  # needs Gradio
    names = [relative(path).removesuffix(".py").replace("/", ".").removesuffix(".__init__") for path in modules]
    assert run_python("-c", IMPORT_ALL, " ".join(names)) == ""


def test_sampling_needs_nothing_of_training():
    unwanted = "{'grain', 'orbax', 'tensorflow_datasets', 'array_record', 'scipy'}"
    code = f"import sys, cassr_jax.loading; print(*sorted({unwanted} & set(sys.modules)))"
    assert run_python("-c", code) == ""


def test_pictures_are_read_without_jax():
    assert run_python("-c", IMPORT_PICTURES) == ""

"""Packaging and imports: one set of pins everywhere, nothing heavy in git, `helpers` imports quietly and one way."""

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import helpers
from helpers import ROOMS
from helpers.base.settings import PROJECT

# What a user runs before or beside the notebooks answers at once: no torch behind it.
LIGHT = (
    "base.settings",
    "base.storage",
    "base.sources",
    "larger_machines.cluster",
    "course.requirements",
    "course.results",
    "course.check",
)
MODULES = {
    ".".join(path.relative_to(PROJECT / "helpers").with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((PROJECT / "helpers").rglob("*.py"))
    if path != PROJECT / "helpers" / "__init__.py"
}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(requirements: list[str]) -> dict[str, str]:
    """{name: version} of requirement lines; a line that is no `==` pin fails."""
    pairs = {}
    for line in requirements:
        found = re.fullmatch(r"([\w.-]+)==([\w.]+)", line.strip())
        assert found, f"{line!r} is not pinned with =="
        pairs[normal(found[1])] = found[2]
    return pairs


@pytest.fixture(scope="module")
def project_pins() -> dict[str, dict[str, str]]:
    """Pins of pyproject.toml by group; `core` are the direct dependencies."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    groups = {"core": project["dependencies"]} | project["optional-dependencies"]
    return {name: pins(lines) for name, lines in groups.items()}


# Pins ----------------------------------------------------------------------------------------------------------


def test_only_exact_pins_are_accepted():
    assert pins(["A_b==1.0"]) == {"a-b": "1.0"}
    for line in ("a>=1", "a", "a==1.*", "a==1.0+cpu"):
        with pytest.raises(AssertionError, match="not pinned"):
            pins([line])


def test_environment_has_the_pins_of_pyproject(project_pins):
    text = (PROJECT / "environment.yml").read_text()
    listed = pins(re.findall(r"^\s+- (\S+)$", text.split("- pip:\n")[1], re.MULTILINE))
    assert listed == project_pins["core"] | project_pins["lab"] | project_pins["book"] | project_pins["test"]


def test_binder_uses_the_same_environment():
    link = PROJECT / ".binder" / "environment.yml"
    assert link.is_symlink() and link.resolve() == PROJECT / "environment.yml"


def test_constraints_hold_every_pin(project_pins):
    constraints = pins((PROJECT / "constraints.txt").read_text().splitlines())
    for group in project_pins.values():
        assert {name: constraints.get(name) for name in group} == group


# Commands and files --------------------------------------------------------------------------------------------


def test_ci_runs_the_tests_of_the_readme():
    script = PROJECT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text().splitlines()
    readme = (PROJECT / "README.md").read_text()
    assert "make lab" in readme and "make test" in readme


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    if not (PROJECT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = subprocess.run(["git", "-C", PROJECT, "ls-files", "-z"], capture_output=True, text=True, check=True)
    return [PROJECT / name for name in listing.stdout.split("\0") if name]


def test_no_data_or_model_is_tracked(tracked):
    suffixes = {".csv", ".parquet", ".safetensors", ".gguf", ".whl", ".pkl"}
    assert tracked
    assert [path.name for path in tracked if path.suffix in suffixes] == []
    assert [path.name for path in tracked if path.is_file() and path.stat().st_size > 1_000_000] == []


# Installed without the checkout ----------------------------------------------------------------------------------

THIRD_PARTY = sysconfig.get_path("purelib")
# What works on notebooks needs the group `lab`; the rest needs the direct dependencies alone.
ON_NOTEBOOKS = {f"course.{name}" for name in ("book", "book_conf", "editions", "report", "run", "slides")}
ON_NOTEBOOKS |= {"pages.front_picture"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the installed package, built from a copy: a build leaves files where it runs."""
    copy, target = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("installed")
    for name in ("helpers", "data"):
        shutil.copytree(PROJECT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, copy)
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*command, "--target", target, copy], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return target


def needed(wanted: list[str]) -> set[str]:
    """Normal names of the installed distributions behind requirement lines, with all that these need in turn."""
    todo, extras = [Requirement(line) for line in wanted], {}
    while todo:
        requirement = todo.pop()
        name = normal(requirement.name)
        if name in extras and requirement.extras <= extras[name]:
            continue
        extras[name] = extras.get(name, set()) | requirement.extras
        for line in importlib.metadata.distribution(name).requires or []:
            further = Requirement(line)
            if further.marker is None or any(further.marker.evaluate({"extra": e}) for e in extras[name] | {""}):
                todo.append(further)
    return set(extras)


def clean_environment(folder: Path, *groups: str) -> Path:
    """A folder of links to what pip would install with the package and these extras, and to nothing else."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    wanted = sum((project["optional-dependencies"][group] for group in groups), project["dependencies"])
    for name in needed(wanted):
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            if not (folder / top).is_symlink():
                (folder / top).symlink_to(distribution.locate_file(top))
    return folder


@pytest.fixture(scope="module")
def core(tmp_path_factory) -> Path:
    return clean_environment(tmp_path_factory.mktemp("core"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Path:
    return clean_environment(tmp_path_factory.mktemp("lab"), "lab")


def test_the_clean_environments_hold_what_was_asked_for(core, lab):
    there = {path.name for path in core.iterdir()}
    assert {"torch", "transformers", "numpy", "lenskit"} <= there
    assert not there & {"nbformat", "jupyterlab", "ray", "cvxpy", "pytest", "nbval", "sphinx", "beartype"}
    assert {"nbformat", "jupyterlab", "ray"} <= {path.name for path in lab.iterdir()}
    assert not (lab / "pytest").exists()


def test_the_installed_package_has_every_file(installed):
    def files(folder: Path) -> set[str]:
        found = (p for p in folder.rglob("*") if p.is_file() and p.suffix != ".pyc")
        return {path.relative_to(folder).as_posix() for path in found}

    data = {f"data/{name}" for name in files(PROJECT / "data")}
    assert files(installed / "helpers") == files(PROJECT / "helpers") | data


INSTALLED = """
from helpers.base import settings, sources
print(settings.__file__, len(sources.read_manifest()), settings.in_checkout())
print(settings.data_file("refusal_labels.json").is_file(), settings.wheel_folder())
"""


def test_the_installed_package_reads_its_data(installed, core, tmp_path):
    code = f"import sys; sys.path += [{str(installed)!r}, {str(core)!r}]\n{INSTALLED}"
    command = [sys.executable, "-I", "-S", "-c", code]  # nothing of this checkout: no .pth file, no PYTHONPATH
    environment = os.environ | {"STEER_WHEELS": "wheels"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300)
    n_sources = len(tomllib.loads((PROJECT / "data/sources.toml").read_text("utf-8")))
    expected = [f"{installed}/helpers/base/settings.py", n_sources, False, True, tmp_path / "wheels"]
    assert done.stdout.split() == [str(part) for part in expected], done.stderr


# Imports -------------------------------------------------------------------------------------------------------

QUIET = """
import importlib, json, sys
calls, module = [], None
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        calls.append(f"{module}: {event}")
sys.addaudithook(watch)
for module in sys.argv[1:]:
    importlib.import_module("helpers." + module)
print(json.dumps({"calls": calls, "torch": "torch" in sys.modules}))
"""


def imported(modules: list[str], cache: Path, where: Path = PROJECT, others: str | Path = THIRD_PARTY) -> dict:
    """Import `modules`, packages from `others`; network calls, and whether torch was loaded."""
    environment = os.environ | {"STEER_CACHE": str(cache)}
    code = f"import sys; sys.path += [{str(where)!r}, {str(others)!r}]\n{QUIET}"
    command = [sys.executable, "-I", "-S", "-c", code, *modules]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1, f"an import prints: {done.stdout[:200]}"
    return json.loads(done.stdout)


@pytest.mark.slow
def test_imports_touch_neither_network_nor_cache(installed, core, lab, tmp_path):
    others = [name for name in MODULES if name not in ON_NOTEBOOKS]
    assert imported(others, tmp_path / "cache", installed, core)["calls"] == []
    assert imported(sorted(ON_NOTEBOOKS), tmp_path / "cache", installed, lab)["calls"] == []
    assert not (tmp_path / "cache").exists()


def test_a_network_call_would_be_noticed(tmp_path):
    code = QUIET.replace(
        'importlib.import_module("helpers." + module)', "__import__('socket').gethostbyname('localhost')"
    )
    done = subprocess.run([sys.executable, "-c", code, "x"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["calls"] == ["x: socket.gethostbyname"]


def test_light_modules_do_not_wait_for_torch(tmp_path):
    assert not imported([name for name in LIGHT if name in MODULES], tmp_path)["torch"]


def helper_imports(source: str) -> set[str]:
    """Names under `helpers` that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("helpers.") for alias in node.names if alias.name.startswith("helpers.")}
        elif isinstance(node, ast.ImportFrom) and node.module == "helpers":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("helpers."):
            found.add(node.module.removeprefix("helpers."))
    return found


def against_the_map(module: str, source: str) -> list[str]:
    """Rooms from which `module` may not import: below its own on the map of `helpers`, or not on it."""
    allowed = ROOMS[: ROOMS.index(module.split(".")[0]) + 1]
    return sorted({name.split(".")[0] for name in helper_imports(source)} - set(allowed) - {"ROOMS"})


@pytest.mark.parametrize("module", MODULES)
def test_a_room_imports_only_from_rooms_above(module):
    assert against_the_map(module, MODULES[module].read_text()) == []


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("base.sources", "from helpers.domains import movies", ["domains"]),
        ("base.sources", "try:\n    import helpers.language.models\nexcept ImportError:\n    pass", ["language"]),
        ("base.sources", "def f():\n    from helpers.domains import movies", ["domains"]),
        ("eagle.design", "def f():\n    from helpers import pages", ["pages"]),
        ("eagle.design", "from helpers.are import editing\nfrom helpers.base import storage", ["are"]),
        ("eagle.design", "from helpers.eagle import actions\nfrom helpers.embedding import encoder", []),
        ("pages.plots", "from helpers.eagle.design import f\nfrom helpers.course import results", []),
        ("course.run", "from helpers.pages.widgets import f", ["pages"]),
        ("course.run", "from helpers.attic import f", ["attic"]),
    ],
)
def test_an_import_against_the_map_is_noticed(module, source, wrong):
    assert against_the_map(module, source) == wrong


def circles(imports: dict[str, set[str]]) -> list[str]:
    """Modules that import each other, directly or through others."""
    left = {name: set(others) for name, others in imports.items()}
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    return sorted(left)


def module_imports(module: str) -> set[str]:
    """Modules of `helpers` that a module imports; a name imported from a room may be one of them."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("helpers"):
            whole = node.module.removeprefix("helpers").lstrip(".")
            found |= {whole, *(f"{whole}.{alias.name}".lstrip(".") for alias in node.names)}
    return found & MODULES.keys()


def test_no_modules_import_each_other():
    assert circles({name: module_imports(name) for name in MODULES}) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]


def test_the_map_names_every_room_and_nothing_lies_outside_it():
    rooms = {name.split(".")[0] for name in MODULES}
    assert rooms == set(ROOMS) and len(ROOMS) == len(set(ROOMS))
    assert [name for name in MODULES if "." not in name and name not in ROOMS] == []
    assert all(f"| `{room}` |" in helpers.__doc__ for room in ROOMS)
    assert {path.name for path in (PROJECT / "tests").iterdir() if path.is_dir()} >= set(ROOMS)


# Names ---------------------------------------------------------------------------------------------------------


def stored(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def public_names(source: str) -> set[str]:
    """Functions, classes and constants that a module defines at its top level, without those behind an underscore."""
    names = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {part.id for target in targets for part in ast.walk(target) if stored(part)}
    return {name for name in names if not name.startswith("_")}


def double_names(sources: dict[str, str]) -> dict[str, list[str]]:
    """Names that several modules define, but for `main`, which every module with a command has."""
    where: dict[str, list[str]] = {}
    for module, source in sources.items():
        for name in public_names(source) - {"main"}:
            where.setdefault(name, []).append(module)
    return {name: modules for name, modules in sorted(where.items()) if len(modules) > 1}


def test_no_two_modules_define_the_same_name():
    assert double_names({name: path.read_text("utf-8") for name, path in MODULES.items()}) == {}


def test_a_name_that_is_defined_twice_is_noticed():
    one = "import x\n_A = 1\nB, (C, D) = 1, (2, 3)\nE: int = 1\ndef f():\n    inside = 1\ndef main(): ..."
    assert public_names(one) == {"B", "C", "D", "E", "f", "main"}
    other = "class D:\n    f = 1\n_A = 2\ndef main(): ...\nx = B.f = 3"
    assert double_names({"one": one, "other": other}) == {"D": ["one", "other"]}


# --- what is imported is declared --------------------------------------------------------------------------

MODULE_OF = {
    "scikit-learn": "sklearn",
    "faiss-cpu": "faiss",
    "jupyter-scatter": "jscatter",
    "ipython": "IPython",
    "pillow": "PIL",
}


def _third_party(path: Path) -> set[str]:
    """Top-level names of packages that a module imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").split(".")[0])
    return names - set(sys.stdlib_module_names) - {"helpers", "__future__", ""}


def test_every_imported_package_is_pinned_in_pyproject() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    pins = [*project["dependencies"], *extras["lab"], *extras["book"]]
    names = [re.split(r"[=\[<>]", pin)[0] for pin in pins]
    declared = {MODULE_OF.get(name, name).replace("-", "_") for name in names}
    imported = set().union(*(_third_party(path) for path in (PROJECT / "helpers").rglob("*.py")))
    assert {"torch", "sklearn", "psutil"} <= imported, "the imports were not found"
    assert not imported - declared, f"add to pyproject.toml: {sorted(imported - declared)}"

"""Do the unit tests notice small faults? Changes helpers in one place at a time and runs the tests that should fail.

    python tests/benchmarks/mutants.py --n 180 --seed 0 --verdicts build/mutants.json

A mutant is killed if a test fails, an import fails or the CPU limit is reached. First the tests named after the module
run, then the other tests of its room. Verdicts are kept, so that an interrupted run goes on: `killed` holds as long as
the module stays the same, `survived` as long as the tests of its room do so too. The last lines are the survivors and
the share killed, which is recorded as `tests.mutants_killed` when STEER_RESULTS is set. Mutants that change nothing
that anybody could see stand in EQUIVALENT, each with its reason.
"""

from __future__ import annotations

import argparse
import ast
import copy
import difflib
import hashlib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
TARGETS = (
    "helpers/eagle/*.py",
    "helpers/are/*.py",
    "helpers/embedding/evaluation.py",
    "helpers/course/judge.py",
    "helpers/course/exercises/*.py",
)
HEAVY = (
    "pytest",
    "torch",
    "transformers",
    "peft",
    "sklearn.neighbors",
    "sentence_transformers",
    "pandas",
    "scipy.stats",
)
HEAVY += ("gymnasium", "matplotlib.pyplot", "nltk", "vaderSentiment.vaderSentiment", "hypothesis", "faiss", "lenskit")
CPU_SECONDS, WALL_SECONDS = 240, 1500
NOTEBOOKS = "tests/notebooks/test_definitions.py"
EQUIVALENT: dict[tuple[str, str, str], str] = {  # (module, line, mutation): reason
    (
        "helpers/eagle/design.py",
        "rank = int((scales > RANK_CUTOFF * scales[0]).sum())",
        "Gt -> GtE",
    ): "differs where a singular value is the cutoff to the last bit, or where all are zero, which is refused above",
    (
        "helpers/are/labels.py",
        "standard = (states - states.mean(axis=0)) / (states.std(axis=0) + 1e-6)",
        "Add -> Sub",
    ): "a millionth more or less of a spread; a number that never varies is 0 either way",
    (
        "helpers/are/evaluation.py",
        "return LogisticRegression(C=10.0, max_iter=500).fit(sentence_features(texts), kinds, weights)",
        "500 -> 501",
    ): "it has converged long before",
}

OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.And: ast.Or,
    ast.Or: ast.And,
}  # fmt: skip
NAMES = {"mean": "sum", "sum": "mean", "max": "min", "min": "max", "argmax": "argmin", "argmin": "argmax", "any": "all"}
NAMES |= {"all": "any", "argsort": "sort", "log": "exp", "exp": "log", "union": "intersection", "sorted": "list"}


@dataclass(frozen=True)
class Mutant:
    """One change: characters `start` to `end` of a module replaced by `text`."""

    module: str
    function: str
    line: str
    mutation: str
    start: int
    end: int
    text: str

    @property
    def key(self) -> str:
        return " | ".join((self.module, self.function, self.line, self.mutation))

    def source(self, original: str) -> str:
        return original[: self.start] + self.text + original[self.end :]


def changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """What to put in place of a node: (mutation in words, new node)."""

    def changed(mutation: str, change: Callable[[ast.AST], object]) -> tuple[str, ast.AST]:
        change(new := copy.deepcopy(node))
        return mutation, new

    def put(name: str, value: object) -> Callable[[ast.AST], object]:
        return lambda new: setattr(new, name, value)

    match node:
        case ast.Compare(ops=[op]) if type(op) in OPERATORS:
            other = OPERATORS[type(op)]
            yield changed(f"{type(op).__name__} -> {other.__name__}", put("ops", [other()]))
        case ast.BinOp(op=op) | ast.BoolOp(op=op) | ast.AugAssign(op=op) if type(op) in OPERATORS:
            other = OPERATORS[type(op)]
            yield changed(f"{type(op).__name__} -> {other.__name__}", put("op", other()))
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield f"{type(node.op).__name__} dropped", operand
        case ast.keyword(arg="axis" | "dim", value=ast.Constant(value=0 | 1 as axis)):
            yield changed("other axis", put("value", ast.Constant(1 - axis)))
        case ast.Constant(value=bool(value)):
            yield f"{value} -> {not value}", ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield f"{value} -> {value + 1}", ast.Constant(value + 1)
        case ast.Constant(value=float(value)):
            yield "number doubled", ast.Constant(2 * value if value else 1.0)
        case ast.Slice(lower=lower, upper=upper):
            if lower is not None:
                yield changed("slice from the start", put("lower", None))
            if upper is not None:
                yield changed("slice to the end", put("upper", None))
        case ast.IfExp(body=body, orelse=orelse):
            yield changed("branches swapped", lambda new: (put("body", orelse)(new), put("orelse", body)(new)))
        case ast.Attribute(attr=name) | ast.Name(id=name, ctx=ast.Load()) if name in NAMES:
            yield changed(
                f"{name} -> {NAMES[name]}", put("attr" if isinstance(node, ast.Attribute) else "id", NAMES[name])
            )
        case ast.Call(args=[first, second, *rest]) if not any(isinstance(a, ast.Starred) for a in (first, second)):
            yield changed("arguments swapped", put("args", [second, first, *rest]))
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Raise() | ast.Continue() | ast.Break():
            yield "statement removed", ast.Pass()


def skipped(parent: ast.AST, child: ast.AST) -> bool:
    """Parts without behaviour that a test should hold: annotations, decorators, messages."""
    if isinstance(parent, ast.Raise | ast.JoinedStr | ast.Assert):
        return True
    if isinstance(parent, ast.FunctionDef | ast.ClassDef) and child in parent.decorator_list:
        return True
    if isinstance(child, ast.keyword) and child.arg in ("wrong", "cases"):  # of an exercise: as good as before
        return True
    if isinstance(child, ast.keyword) and child.arg == "strict":  # `zip` would stop where nothing in here ever does
        return True
    if isinstance(child, ast.FunctionDef) and [argument.arg for argument in child.args.args] == ["seed"]:  # cases, too
        return True
    annotations = [getattr(parent, name, None) for name in ("annotation", "returns")]
    return child in annotations or (isinstance(parent, ast.Call) and getattr(parent.func, "id", "") == "print")


def mutants_of(module: str, original: str) -> list[Mutant]:
    """Every mutant of a module, in the order of its lines."""
    lines = original.splitlines(keepends=True)
    begins = [0]
    for line in lines:
        begins.append(begins[-1] + len(line))

    def at(line: int, column: int) -> int:  # ast counts columns in bytes
        return begins[line - 1] + len(lines[line - 1].encode()[:column].decode())

    found, seen = [], {}

    def visit(node: ast.AST, function: str, chosen: bool) -> None:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            function = f"{function}.{node.name}".lstrip(".")
        if isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef | ast.arguments):
            chosen = isinstance(node, ast.ClassDef | ast.arguments)
        if chosen and isinstance(node, ast.Constant) and not isinstance(node.value, bool):
            return  # sizes and settings, of a module, as a field or by default: a matter of choice
        for mutation, new in changes(node):
            line = lines[node.lineno - 1].strip()
            count = seen[line, mutation] = seen.get((line, mutation), 0) + 1
            named = mutation + (f" ({count})" if count > 1 else "")
            text = ast.unparse(ast.fix_missing_locations(new))
            if isinstance(node, ast.BinOp | ast.BoolOp | ast.Compare | ast.IfExp | ast.UnaryOp):
                text = f"({text})"
            span = at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset)
            found.append(Mutant(module, function, line, named, *span, text))
        for child in ast.iter_child_nodes(node):
            if not skipped(node, child):
                visit(child, function, chosen)

    visit(ast.parse(original), "", True)
    return [mutant for mutant in found if parses(mutant.source(original))]


def parses(source: str) -> bool:
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


def tests_of(module: str) -> list[list[str]]:
    """Test files in the order in which they run: those named after a module, its room's others, the notebooks' code."""
    room = PROJECT / "tests" / module.split("/")[1]
    every = sorted(str(path.relative_to(PROJECT)) for path in room.glob("test_*.py"))
    if room.name == "course":
        return [
            ["tests/course/test_check.py"],
            [NOTEBOOKS + "::test_the_solution_in_the_notebook_passes_its_own_check"],
        ]
    first = [name for name in every if Path(module).stem in Path(name).stem]
    return [part for part in (first, [name for name in every if name not in first], [NOTEBOOKS]) if part]


def state_of(module: str, verdict: str) -> str:
    """A hash of what a verdict rests on: the module and, where no test noticed, the tests that might have."""
    tests = [] if verdict == "killed" else [name.split("::")[0] for part in tests_of(module) for name in part]
    return hashlib.sha256(b"".join((PROJECT / name).read_bytes() for name in (module, *tests))).hexdigest()[:16]


def is_known(mutant: Mutant, known: dict[str, dict]) -> bool:
    """Whether the verdict that is kept for a mutant still holds."""
    row = known.get(mutant.key)
    return row is not None and row["state"] == state_of(mutant.module, row["verdict"])


def copy_of_the_tree(folder: Path) -> Path:
    """helpers and tests copied, everything else linked."""
    folder.mkdir()
    for path in PROJECT.iterdir():
        if path.name in ("helpers", "tests"):
            shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif not path.name.startswith("."):
            (folder / path.name).symlink_to(path)
    return folder


def start(tree: Path, files: list[str], log: Path, cpu_seconds: int = CPU_SECONDS) -> int:
    """Run the quick tests of some files in a fork of this process, which has the libraries loaded; its process id."""
    if pid := os.fork():
        return pid
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 5))
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.chdir(tree)
    os.environ |= {"PYTHONPATH": str(tree), "STEER_RESULTS": ""}
    sys.path[:] = [str(tree), *(path for path in sys.path if Path(path or ".").resolve() != PROJECT)]
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:nbval", "--tb=line", "--durations=12", "-W", "ignore"]
    code = 99
    try:
        import pytest

        code = int(pytest.main([*options, "-m", "not slow", *files]))
    finally:
        os._exit(code)


@dataclass
class Slot:
    """One of the copies of the tree, with the mutant that is tried in it."""

    tree: Path
    mutant: Mutant | None = None
    waiting: list[list[str]] | None = None
    pid: int = 0
    began: float = 0.0

    def put(self, mutant: Mutant) -> None:
        """Begin with a mutant."""
        path = self.tree / mutant.module
        path.write_text(mutant.source(path.read_text("utf-8")), "utf-8")
        self.mutant, self.waiting = mutant, tests_of(mutant.module)
        self.next()

    def next(self) -> None:
        """Begin with the next test files."""
        self.began = time.monotonic()
        self.pid = start(self.tree, self.waiting.pop(0), self.tree / "log.txt")

    def verdict(self) -> str | None:
        """`killed` or `survived` when it is known; goes on to the next files by itself."""
        done, status = os.waitpid(self.pid, os.WNOHANG)
        if not done and time.monotonic() - self.began > WALL_SECONDS:
            os.killpg(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            return "killed"
        if not done:
            return None
        if status != 0:
            return "killed"
        if self.waiting:
            return self.next()
        return "survived"

    def clear(self) -> None:
        """Take the mutant out again; the time of the file stays that of the original, as compiled code expects."""
        shutil.copy2(PROJECT / self.mutant.module, self.tree / self.mutant.module)
        self.mutant = None


def sampled(n: int, seed: int, only: str) -> list[Mutant]:
    """`n` mutants at random, one for a line of code; few swap arguments, which is a fault of every second line.

    A mutant's place in the lottery hangs on itself alone: when code changes elsewhere, most of the sample stays.
    """
    everything = []
    for pattern in TARGETS:
        for path in sorted(PROJECT.glob(pattern)):
            module = str(path.relative_to(PROJECT))
            everything += mutants_of(module, path.read_text("utf-8")) if only in module else []
    everything.sort(
        key=lambda mutant: random.Random(f"{seed} {mutant.key}").random() * (8 if "swapped" in mutant.mutation else 1)
    )
    chosen: dict[tuple[str, str, str], Mutant] = {}
    for mutant in everything:
        chosen.setdefault((mutant.module, mutant.function, mutant.line), mutant)
    return list(chosen.values())[:n]


def tried(mutants: list[Mutant], known: dict[str, dict], kept: Path, slots: list[Slot]) -> None:
    """Fill `known` with a verdict for each mutant, and keep it after each."""
    waiting = list(mutants)
    while waiting or any(slot.mutant for slot in slots):
        for slot in slots:
            if slot.mutant is None and waiting:
                slot.put(waiting.pop(0))
            if slot.mutant is not None and (verdict := slot.verdict()):
                known[slot.mutant.key] = {"verdict": verdict, "state": state_of(slot.mutant.module, verdict)}
                kept.write_text(json.dumps(known, indent=1))
                print(f"{verdict:>8} {time.monotonic() - slot.began:4.0f} s  {slot.mutant.key}", flush=True)
                slot.clear()
        time.sleep(0.05)


def check_the_tests(slots: list[Slot], mutants: list[Mutant]) -> None:
    """Run every test once on the unchanged tree: a failing test would kill every mutant."""
    files = sorted({name for mutant in mutants for part in tests_of(mutant.module) for name in part})
    for slot in slots:  # also compiles the tests in each copy
        wanted = files if slot is slots[0] else [*files, "--collect-only"]
        pid = start(slot.tree, wanted, slot.tree / "log.txt", CPU_SECONDS * len(files))
        if os.waitpid(pid, 0)[1] != 0:
            sys.exit("the tests fail without a mutant:\n" + (slot.tree / "log.txt").read_text()[-2000:])


def shown(mutant: Mutant) -> str:
    original = (PROJECT / mutant.module).read_text("utf-8")
    pair = original.splitlines(), mutant.source(original).splitlines()
    return "\n".join(difflib.unified_diff(*pair, mutant.module, mutant.function, lineterm="", n=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, default=180)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="part of a module's path")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--verdicts", type=Path, default=PROJECT / "build" / "mutants.json")
    parser.add_argument("--trust", action="store_true", help="do not run the tests without a mutant first")
    chosen = parser.parse_args()
    chosen.verdicts.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(chosen.verdicts.read_text()) if chosen.verdicts.exists() else {}
    drawn = sampled(chosen.n, chosen.seed, chosen.only)
    mutants = [mutant for mutant in drawn if (mutant.module, mutant.line, mutant.mutation) not in EQUIVALENT]
    todo = [mutant for mutant in mutants if not is_known(mutant, known)]
    print(f"{len(mutants)} mutants, {len(todo)} to try", flush=True)
    for name in HEAVY:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        slots = [Slot(copy_of_the_tree(Path(folder, str(number)))) for number in range(chosen.jobs)]
        if todo and not chosen.trust:
            check_the_tests(slots, todo)
        tried(todo, known, chosen.verdicts, slots)
    survivors = [m for m in mutants if known[m.key]["verdict"] == "survived"]
    print(*map(shown, survivors), sep="\n\n")
    share = 1 - len(survivors) / len(mutants)
    print(f"killed {len(mutants) - len(survivors)} of {len(mutants)}: {share:.1%}")
    if os.environ.get("STEER_RESULTS"):
        sys.path.insert(0, str(PROJECT))
        from helpers.course import results

        unit = f"share of mutants, {len(drawn) - len(mutants)} equivalent ones left out; seed {chosen.seed}"
        facts = {"n": len(mutants), "seeds": [chosen.seed], "unit": unit, "notebook": "tests"}
        results.record("tests.mutants_killed", share, **facts)


if __name__ == "__main__":
    main()

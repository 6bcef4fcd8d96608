"""Rules that every notebook keeps; each rule returns its problems and is itself tested on a bad notebook."""

import copy
import itertools
import json
import re
import statistics
from pathlib import Path

import nbformat
import pytest
from nbformat import v4
from nbval.plugin import get_sanitize_patterns

from helpers.base.settings import PROJECT

NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
HEADINGS = ("What you will learn", "Set-up", "Exercises", "Summary", "Quiz", "References")
FORBIDDEN = tuple(f"/{folder}/" for folder in ("root", "work", "home", "Users", "tmp"))  # of the author's machine
MAX_BYTES = 500_000
CHECK = "NBVAL_CHECK_OUTPUT"


# What a notebook holds ---------------------------------------------------------------------------------------


def markdown(book) -> str:
    """All prose, without code fences (a `# comment` in one is no heading)."""
    text = "\n\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def code_cells(book) -> list:
    return [cell for cell in book.cells if cell.cell_type == "code" and cell.source.strip()]


def code_lines(cell) -> list[str]:
    lines = (line.strip() for line in cell.source.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def headings(text: str) -> list[tuple[int, str]]:
    return [(len(m[1]), m[2].strip()) for m in re.finditer(r"^(#{1,6})\s+(.+)$", text, re.MULTILINE)]


def section(book, title: str) -> str:
    """Text under the H2 `title`, up to the next H2."""
    found = re.search(rf"^## {re.escape(title)}[ \t]*$(.*?)(?=^## |\Z)", markdown(book), re.DOTALL | re.MULTILINE)
    return found[1] if found else ""


def items(text: str) -> list[str]:
    """Top-level list items, bulleted or numbered, outside of <details> (answers to a quiz)."""
    text = re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)
    return re.findall(r"^(?:[-*]|\d+\.)\s+(.+)$", text, re.MULTILINE)


def is_numbered(stem: str) -> bool:
    """A lesson (01 and on), not 00 or a page of widgets (X1, X2), which have no exercises."""
    return stem[:2].isdigit() and stem[:2] != "00"


# The rules: (notebook, file stem) -> problems ------------------------------------------------------------------


def valid_format(book, stem) -> list[str]:
    try:
        nbformat.validate(book)
    except nbformat.ValidationError as error:
        return [f"not a valid notebook: {str(error).splitlines()[0]}"]
    return []


def one_title_and_no_skipped_level(book, stem) -> list[str]:
    problems = []
    levels = [level for level, _ in headings(markdown(book))]
    first = book.cells[0] if book.cells else None
    in_first = first is not None and first.cell_type == "markdown" and headings(first.source)[:1]
    if levels.count(1) != 1 or not in_first or in_first[0][0] != 1:
        problems.append(f"{levels.count(1)} H1 headings: exactly one, at the top of the first cell")
    for before, after in itertools.pairwise(levels):
        if after > before + 1:
            problems.append(f"heading level jumps from {before} to {after}")
    return problems


def images_described_and_local(book, stem) -> list[str]:
    text = markdown(book)
    problems = []
    for alt, address in re.findall(r"!\[([^\]]*)\]\(([^)]*)\)", text):
        problems += [f"image {address[:40]} has no alt text"] * (not alt.strip())
        problems += [f"remote image {address}"] * bool(re.match(r"\s*(https?:)?//", address))
    for tag in re.findall(r"<img\b[^>]*>", text, re.IGNORECASE):
        problems += [f"{tag[:60]} has no alt text"] * (not re.search(r"""alt=(["']).*?\S.*?\1""", tag))
        problems += [f"remote image {tag}"] * bool(re.search(r"""src=["']?(https?:)?//""", tag))
    return problems


def executed_in_order_without_error(book, stem) -> list[str]:
    counts = [cell.execution_count for cell in code_cells(book)]
    problems = []
    if counts != list(range(1, len(counts) + 1)):
        problems.append(f"execution counts {counts}: restart the kernel and run all cells")
    for cell in code_cells(book):
        errors = [out for out in cell.outputs if out.output_type == "error"]
        problems += [f"error output {out.ename} of the cell {cell.source[:40]!r}" for out in errors]
    return problems


def no_widget_state(book, stem) -> list[str]:
    return ["metadata.widgets holds saved widget state: run `make format`"] * ("widgets" in book.metadata)


def small_enough(book, stem) -> list[str]:
    size = len(nbformat.writes(book).encode())
    return [f"{size:,} bytes, at most {MAX_BYTES:,}"] * (size >= MAX_BYTES)


def checks_have_outputs(book, stem) -> list[str]:
    checked = [cell for cell in code_cells(book) if CHECK in cell.source]
    if not checked:
        return [f"no cell with {CHECK}"]
    bad = [cell for cell in checked if cell.execution_count is None or not cell.outputs]
    return [f"{CHECK} without an execution count or output: {cell.source[:40]!r}" for cell in bad]


def small_steps(book, stem) -> list[str]:
    lengths = [len(code_lines(cell)) for cell in code_cells(book)]
    if not lengths:
        return ["no code cells"]
    problems = []
    if statistics.median(lengths) > 8:
        problems.append(f"the median code cell has {statistics.median(lengths):g} lines, at most 8")
    if max(lengths) > 30:
        problems.append(f"a code cell has {max(lengths)} lines, at most 30")
    return problems


def prose_for_the_code(book, stem) -> list[str]:
    text = re.sub(r"\$\$.*?\$\$|<[^>]*>|\]\([^)]*\)", " ", markdown(book), flags=re.DOTALL)
    words = sum(1 for word in text.split() if re.search(r"[A-Za-z]", word))
    ratio = words / max(1, sum(len(code_lines(cell)) for cell in code_cells(book)))
    wrong = not 5 <= ratio <= 16 and not stem.startswith("X")  # a page of widgets has hardly any code
    return [f"{ratio:.1f} words of prose per code line: aim for 6-12 (5-16 allowed)"] * wrong


LOADS = r"local_backend|exact_backend|language_model|hidden_state_features|load_\w*(?:experiment|comparison)|pool_drill"
ASKS_A_MODEL = rf"\b({LOADS})\("


def model_named(book, stem) -> list[str]:
    """`STEER_MODEL` runs a lesson with another chat model: its text must say which one its numbers are of."""
    asks = any(re.search(ASKS_A_MODEL, cell.source) for cell in code_cells(book))
    wrong = asks and is_numbered(stem) and "SmolLM2-135M-Instruct" not in section(book, "Set-up")
    return ["'Set-up' does not say that the numbers are of SmolLM2-135M-Instruct"] * wrong


def no_fixed_block(book, stem) -> list[str]:
    """Another chat model (`STEER_MODEL`) has another number of blocks: their places follow `late` or `as_deep`."""
    fixed = re.compile(r"\.layers\[\d+\]|layers\.\d+\.")
    found = [match[0] for cell in code_cells(book) for match in fixed.finditer(cell.source)]
    return [f"names one block of one model: {name}" for name in found]


def figures_described(book, stem) -> list[str]:
    problems = []
    for cell in code_cells(book):
        texts = [out.get("text", "") or out.get("data", {}).get("text/plain", "") for out in cell.outputs]
        described = re.search(r"^Figure:.{13,}", "\n".join(texts), re.MULTILINE)
        if any("image/png" in out.get("data", {}) for out in cell.outputs) and not described:
            problems.append(f"figure without a printed 'Figure: ...' line: {cell.source[:40]!r}")
    return problems


def required_headings(book, stem) -> list[str]:
    there = {title for level, title in headings(markdown(book)) if level == 2}
    needed = [title for title in HEADINGS if title != "Exercises" or is_numbered(stem)]
    return [f"no heading '## {title}'" for title in needed if title not in there]


def exercises_with_solutions(book, stem) -> list[str]:
    """Two exercises in a lesson; the solution stands in the cell of the check or in the code cell before it."""
    cells = code_cells(book)
    checks = [i for i, cell in enumerate(cells) if re.search(r"^\w+ = check\.exercise\(", cell.source, re.MULTILINE)]
    problems = [f"{len(checks)} exercises, at least 2"] if is_numbered(stem) and len(checks) < 2 else []
    for index in checks:
        near = [cell.source for cell in cells[max(0, index - 1) : index + 1]]
        if not any(re.search(r"# BEGIN SOLUTION.*# END SOLUTION", source, re.DOTALL) for source in near):
            problems.append(f"no BEGIN/END SOLUTION at the check {cells[index].source[-40:]!r}")
    return problems


def counted_sections(book, stem) -> list[str]:
    bounds = {"What you will learn": (3, 5), "Quiz": (3, 3), "References": (3, 6)}
    counts = {title: len(items(section(book, title))) for title in bounds}
    return [
        f"'## {title}' has {counts[title]} list items: {low} to {high}"
        for title, (low, high) in bounds.items()
        if not low <= counts[title] <= high
    ]


def no_machine_paths(book, stem) -> list[str]:
    shown = copy.deepcopy(book)
    for cell in code_cells(shown):
        for out in cell.outputs:
            out.get("data", {}).pop("image/png", None)  # base64 may spell anything
    text = json.dumps(shown)
    return [f"mentions {path}" for path in FORBIDDEN if path in text]


def no_installs(book, stem) -> list[str]:
    lines = (line for cell in code_cells(book) for line in cell.source.splitlines())
    return [f"installs: {line.strip()}" for line in lines if re.match(r"\s*[!%].*\b(pip|conda|mamba)\b", line)]


RULES = (
    valid_format,
    one_title_and_no_skipped_level,
    images_described_and_local,
    executed_in_order_without_error,
    no_widget_state,
    small_enough,
    checks_have_outputs,
    small_steps,
    prose_for_the_code,
    model_named,
    no_fixed_block,
    figures_described,
    required_headings,
    exercises_with_solutions,
    counted_sections,
    no_machine_paths,
    no_installs,
)


# The notebooks -------------------------------------------------------------------------------------------------


def test_the_notebooks_are_there():
    assert {f"{number:02d}" for number in range(19)} <= {path.stem[:2] for path in NOTEBOOKS}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_keeps(path: Path, rule):
    problems = rule(nbformat.read(path, as_version=4), path.stem)
    assert not problems, "\n".join(problems)


def test_files_are_small():
    assert not [path.name for path in NOTEBOOKS if path.stat().st_size >= MAX_BYTES]


# The rules themselves --------------------------------------------------------------------------------------------

PARAGRAPH = "Here is a sentence of prose that says what the next cell does and why. " * 5
SOLVED = "def f(x):\n    # BEGIN SOLUTION\n    return 2 * x\n    # END SOLUTION\nf = check.exercise('01.{}', f)"


def good_notebook():
    """A small notebook that keeps every rule."""

    def code(source, *outputs):
        cells.append(v4.new_code_cell(source, execution_count=len(cells), outputs=list(outputs)))

    cells = []
    printed = v4.new_output("stream", text="[OK]\n")
    figure = v4.new_output("display_data", data={"image/png": "aGk=", "text/plain": "<Figure size 640x480>"})
    described = v4.new_output("stream", text="Figure: the line rises from 0 to 1.\n")
    cells.append(None)
    code(f"# {CHECK}\nprint('[OK]')", printed)
    code("plt.plot([0, 1])\nprint('Figure: the line rises from 0 to 1.')", figure, described)
    code(SOLVED.format(1), printed)
    code(SOLVED.format(2), printed)
    listed = {"What you will learn": 4, "Set-up": 0, "Exercises": 0, "Summary": 0, "Quiz": 3, "References": 3}
    parts = ["# A title", PARAGRAPH, "![a line](line.png)", "```\n# no heading\n```"]
    for title, count in listed.items():
        parts += [f"## {title}", *[f"{i}. Item." for i in range(1, count + 1)]]
    cells[0] = v4.new_markdown_cell("\n\n".join(parts))
    return v4.new_notebook(cells=cells)


def add_text(text):
    return lambda book: book.cells.append(v4.new_markdown_cell(text))


def replace_text(old, new):
    def change(book):
        assert any(old in cell.source for cell in book.cells)
        for cell in book.cells:
            cell.source = cell.source.replace(old, new)

    return change


def on_cell(index, **changes):
    return lambda book: book.cells[index].update(changes)


def drop_cell(index):
    return lambda book: book.cells.pop(index)


def add_output(index, output):
    return lambda book: book.cells[index].outputs.append(output)


ERROR = v4.new_output("error", ename="KeyError", evalue="x", traceback=[])
PATH = v4.new_output("stream", text="loaded /home/me/model")

BROKEN = [
    (valid_format, on_cell(1, outputs=[nbformat.from_dict({"output_type": "unknown"})]), "not a valid"),
    (one_title_and_no_skipped_level, add_text("# Another title"), "2 H1"),
    (one_title_and_no_skipped_level, replace_text("# A title", "A title"), "0 H1"),
    (one_title_and_no_skipped_level, lambda book: book.cells.insert(0, book.cells.pop(1)), "first cell"),
    (one_title_and_no_skipped_level, add_text("#### Deep"), "from 2 to 4"),
    (images_described_and_local, replace_text("![a line]", "![]"), "no alt text"),
    (images_described_and_local, add_text("![a](https://example.org/a.png)"), "remote image"),
    (images_described_and_local, add_text("<img src='a.png'>"), "no alt text"),
    (images_described_and_local, add_text("<img src='a.png' alt=''>"), "no alt text"),
    (images_described_and_local, add_text('<img alt="a" src="//example.org/a.png">'), "remote image"),
    (executed_in_order_without_error, on_cell(2, execution_count=7), "[1, 7, 3, 4]"),
    (executed_in_order_without_error, on_cell(1, execution_count=None), "[None, 2, 3, 4]"),
    (executed_in_order_without_error, add_output(1, ERROR), "KeyError"),
    (no_widget_state, lambda book: book.metadata.update(widgets={}), "make format"),
    (small_enough, add_text("x" * MAX_BYTES), "at most 500,000"),
    (checks_have_outputs, replace_text(CHECK, ""), "no cell with"),
    (checks_have_outputs, on_cell(1, outputs=[]), "without an execution count"),
    (checks_have_outputs, on_cell(1, execution_count=None), "without an execution count"),
    (small_steps, replace_text("    return 2 * x", "    x = 1\n" * 20), "median"),
    (small_steps, on_cell(1, source="x = 1\n" * 31), "31 lines"),
    (small_steps, lambda book: book.update(cells=book.cells[:1]), "no code"),
    (prose_for_the_code, replace_text(PARAGRAPH, ""), "words of prose"),
    (prose_for_the_code, add_text(PARAGRAPH * 3), "words of prose"),
    (model_named, on_cell(1, source="lm = language_model()"), "numbers are of SmolLM2"),
    (no_fixed_block, on_cell(1, source="weight = lm.model.model.layers[25].mlp.weight"), "one block"),
    (no_fixed_block, on_cell(1, source="part = model.get_submodule('model.layers.7.mlp')"), "one block"),
    (figures_described, lambda book: book.cells[2].outputs.pop(), "without a printed"),
    (figures_described, lambda book: book.cells[2].outputs[1].update(text="Figure: a line"), "without a printed"),
    *[(required_headings, replace_text(f"## {title}", "## Else"), title) for title in HEADINGS],
    (required_headings, replace_text("## Quiz", "### Quiz"), "Quiz"),
    (exercises_with_solutions, drop_cell(4), "1 exercises"),
    (exercises_with_solutions, replace_text("# END SOLUTION", ""), "no BEGIN/END"),
    (counted_sections, replace_text("4. Item.", "4. Item.\n5. Item.\n6. Item."), "What you will learn' has 6"),
    (counted_sections, replace_text("## Set-up", "4. Item.\n\n## Set-up\n\n## Quiz"), "Quiz' has 0"),
    (counted_sections, replace_text("## References", "4. Item.\n\n## References"), "Quiz' has 4"),
    (counted_sections, add_text("- 4\n- 5\n- 6\n- 7"), "References' has 7"),
    *((no_machine_paths, add_text(f"see {path}x"), path) for path in FORBIDDEN),
    (no_machine_paths, add_output(1, PATH), "/home/"),
    (no_machine_paths, replace_text("plt.plot([0, 1])", f"open('{FORBIDDEN[0]}a')"), FORBIDDEN[0]),
    (no_installs, replace_text("plt.plot([0, 1])", "!pip install x"), "!pip install x"),
    (no_installs, replace_text("plt.plot([0, 1])", "  %pip install x"), "%pip install x"),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_good_notebook_has_no_problem(rule):
    assert rule(good_notebook(), "01_good") == []


@pytest.mark.parametrize(("rule", "breaks", "text"), BROKEN)
def test_a_bad_notebook_is_noticed(rule, breaks, text):
    book = good_notebook()
    breaks(book)
    assert text in "\n".join(rule(book, "01_bad"))


def test_every_rule_is_seen_to_fail():
    assert {rule for rule, _, _ in BROKEN} == set(RULES)


@pytest.mark.parametrize("stem", ["00_start_here", "X1_explore"])
def test_pages_without_lessons_need_no_exercises(stem):
    book = good_notebook()
    book.cells = book.cells[:3]
    replace_text("## Exercises", "## Next")(book)
    assert required_headings(book, stem) == exercises_with_solutions(book, stem) == []


def test_a_solution_may_stand_in_the_cell_before_its_check():
    book = good_notebook()
    for index in (3, 5):
        solution, check = book.cells[index].source.rsplit("\n", 1)
        book.cells[index].source = solution
        book.cells.insert(index + 1, v4.new_code_cell(check))
    assert exercises_with_solutions(book, "01_good") == []


def test_answers_in_details_are_no_questions():
    book = good_notebook()
    replace_text("## References", "<details>\n\n1. Answer.\n\n</details>\n\n## References")(book)
    assert counted_sections(book, "01_good") == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("fit in 1.3 s", "fit in 12 ms"),
        ("<object at 0x7f00aa11bb22>", "<object at 0x7f99cc33dd44>"),
        (" 40%|████      | 4/10 [00:01<00:02, 3.1it/s]", " 40%|███▉      | 4/10 [00:09<00:03, 1.02s/it]"),
        ("IPY_MODEL_" + "0a" * 16, "IPY_MODEL_" + "1b" * 16),
        ("0.12345678", "0.12345699"),
        ("[-0.0, 1]", "[0.0, 1]"),
        ("run on 2026-01-02 10:11:12", "run on 2027-03-04 01:02:03"),
    ],
)
def test_nbval_ignores_what_differs_between_runs(one, other):
    assert sanitized(one) == sanitized(other)


@pytest.mark.parametrize(
    ("one", "other"), [("0.123", "0.124"), ("shape (3, 4)", "shape (4, 3)"), ("True", "False"), ("-0.5", "0.5")]
)
def test_nbval_still_sees_a_difference(one, other):
    assert sanitized(one) != sanitized(other)


def sanitized(text: str) -> str:
    for pattern, replacement in get_sanitize_patterns((PROJECT / "tests/nbval_sanitize.cfg").read_text("utf-8")):
        text = re.sub(pattern, replacement, text)
    return text

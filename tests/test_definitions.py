"""What the notebooks write out step by step equals what `helpers` computes."""

from __future__ import annotations

import ast
import re
from contextlib import suppress
from functools import cache
from pathlib import Path

import nbformat
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.linear_model import Ridge

from helpers import settings
from helpers.classroom import check
from helpers.classroom.exercises import EXERCISES
from helpers.eagle.utility import ContentGap
from helpers.embedding import factorization as fz

NOTEBOOKS = settings.PROJECT / "notebooks"
CHECKED = re.compile(r"^(\w+) = check\.exercise\(\"([\w.]+)\", \1\)$", re.MULTILINE)


@cache
def code_cells(notebook: Path) -> tuple[str, ...]:
    """Sources of the code cells, without cell magics (`%%timeit`) and shell lines."""
    cells = nbformat.read(notebook, as_version=4).cells
    sources = [cell.source for cell in cells if cell.cell_type == "code"]
    return tuple(source for source in sources if not re.search(r"^[%!]", source, re.MULTILINE))


@cache
def notebook(number: str) -> Path:
    (path,) = NOTEBOOKS.glob(f"{number}_*.ipynb")
    return path


def definitions(number: str) -> dict:
    """The functions that a notebook defines, with its imports; nothing else of it runs.

    Functions with a value of the notebook as a default (`part=train`) cannot stand alone and are left out.
    """
    names: dict = {}
    for source in code_cells(notebook(number)):
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef | ast.Import | ast.ImportFrom):
                with suppress(NameError):
                    exec(compile(ast.Module([node], type_ignores=[]), notebook(number).name, "exec"), names)
    return names


def residuals(seed: int) -> tuple[sp.csr_array, np.ndarray]:
    """A sparse table of residuals and factors of its columns; the last row is empty."""
    random = np.random.default_rng(seed)
    dense = np.where(random.random((9, 7)) < 0.5, random.normal(size=(9, 7)), 0)
    dense[-1] = 0
    return sp.csr_array(dense), random.normal(size=(7, 3))


@pytest.mark.parametrize("seed", range(5))
def test_01_one_user_and_half_a_sweep(seed):
    names = definitions("01")
    table, factors = residuals(seed)
    expected = fz.solve_rows(table, factors, 0.1, 0.05)
    rows, columns = table.nonzero()
    left_over = torch.from_numpy(table.data)
    swept = names["half_sweep"](torch.from_numpy(factors), rows, columns, left_over, 9)
    np.testing.assert_allclose(swept.numpy(), expected, atol=1e-10)
    for row in range(9):
        part = slice(table.indptr[row], table.indptr[row + 1])
        one = names["solve_one"](torch.from_numpy(factors), table.indices[part], left_over[part], 0.1, 0.05)
        np.testing.assert_allclose(one.numpy(), expected[row], atol=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_02_ridge_regression(seed):
    random = np.random.default_rng(seed)
    x, y = random.normal(size=(20, 6)), random.normal(size=(20, 3))
    weights = definitions("02")["ridge"](x, y, 2.5)
    np.testing.assert_allclose(weights, Ridge(alpha=2.5, fit_intercept=False).fit(x, y).coef_.T)


@pytest.mark.parametrize("seed", range(5))
def test_03_novelty(seed):
    random = np.random.default_rng(seed)
    items, z = random.normal(size=(15, 4)), random.normal(size=(6, 4))
    novelty = definitions("03")["novelty_naive"]
    gap = ContentGap(items, np.ones(4), 3.5)
    np.testing.assert_allclose(gap(z).novelty * gap.typical_distance, [novelty(row, items) for row in z])
    alone = [novelty(row, np.delete(items, i, axis=0)) for i, row in enumerate(items)]
    assert gap.typical_distance == pytest.approx(np.mean(alone))


@pytest.mark.parametrize("seed", range(3))
def test_03_utility(seed):
    random = np.random.default_rng(seed)
    items, user, z = random.normal(size=(15, 4)), random.normal(size=4), random.normal(size=(6, 4))
    gap = ContentGap(items, user, 3.5)
    names = definitions("03")

    class Space:
        pass

    space = Space()
    space.items = items
    names |= {"level": 3.5, "z_user": user, "space": space, "typical": gap.typical_distance}
    np.testing.assert_allclose(gap(z).total, [names["utility_naive"](row) for row in z])


# Exercises


def answers() -> dict[str, tuple[str, str]]:
    """Exercise to notebook and the name of its answer, as the notebooks check it."""
    found = {}
    for path in sorted(NOTEBOOKS.glob("[0-9X]*.ipynb")):
        for answer, exercise in CHECKED.findall("\n".join(code_cells(path))):
            assert exercise not in found, f"{exercise} is checked twice"
            found[exercise] = (path.name.partition("_")[0], answer)
    return found


def test_every_exercise_belongs_to_a_notebook_and_the_other_way_round():
    assert sorted(answers()) == sorted(EXERCISES)
    for exercise, (number, _) in answers().items():
        assert exercise.startswith(f"{number}.")


@pytest.mark.parametrize("exercise", [name for name in sorted(EXERCISES) if callable(EXERCISES[name].reference)])
def test_the_solution_in_the_notebook_passes_its_own_check(exercise):
    number, answer = answers()[exercise]
    assert check.judge(EXERCISES[exercise], definitions(number)[answer]) is None

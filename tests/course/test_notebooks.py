"""The notebooks: each source and its .ipynb hold together, and each runs from its first cell to its
last.
"""

import ast
import importlib.util
from io import BytesIO

import nbformat
import numpy as np
import pytest
from PIL import Image

from notebooks.make import CELL_SECONDS, facts, keep_outputs, lighter, read, run, sources, table

SOURCES = sources()
NAMES = [p.stem for p in SOURCES]
each = pytest.mark.parametrize("source", SOURCES, ids=NAMES)
LARGEST = 1_500_000  # bytes of an .ipynb


def made(source):
    return nbformat.read(source.with_suffix(".ipynb"), as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_they_are_numbered_without_gaps():
    assert [name[:2] for name in NAMES] == [f"{i:02d}" for i in range(len(NAMES))]
    assert {p.stem for p in SOURCES[0].parent.glob("*.ipynb")} == set(NAMES)


@each
def test_a_pair_holds_together(source):
    expected, found = read(source), made(source)
    assert [(c.cell_type, c.source) for c in found.cells] == [
        (c.cell_type, c.source) for c in expected.cells
    ], (
        f"{source.with_suffix('.ipynb').name} is not made from {source.name}: python -m "
        f"notebooks.make {source.name[:2]}"
    )


@each
def test_what_a_reader_opens_holds_its_outputs(source):
    notebook = made(source)
    cells = code_cells(notebook)
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    outputs = [o for c in cells for o in c.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    assert not [o.text for o in outputs if o.output_type == "stream" and "Warning" in o.text]
    assert any({"image/png", "image/svg+xml"} & set(o.get("data", {})) for o in outputs)
    assert source.with_suffix(".ipynb").stat().st_size <= LARGEST
    nbformat.validate(notebook)


@each
def test_a_source_keeps_to_the_form(source):
    notebook = read(source)
    title, objective, before = facts(notebook)
    assert title.startswith(source.name[:2]) and objective and before
    first = read(SOURCES[0])
    assert notebook.cells[1].source == first.cells[1].source, (
        "the cell for Colab is the same everywhere"
    )
    tree = ast.parse("\n".join(c.source for c in code_cells(notebook)))
    assert not [node.name for node in ast.trajectory(tree) if isinstance(node, ast.ClassDef)]
    modules = [node.module for node in ast.trajectory(tree) if isinstance(node, ast.ImportFrom)]
    assert not [m for m in modules if m.split(".")[0] in ("sample", "train", "tests")], (
        "only the package is installed everywhere"
    )
    exercises = (
        source.parents[1] / "imagen_mini" / "course" / "exercises" / f"nb{source.name[:2]}.py"
    )
    assert exercises.is_file() == (f"nb{source.name[:2]}.check(" in source.read_text())


@each
def test_a_link_leads_to_a_notebook(source):
    for word in source.read_text().replace("(", " ").replace(")", " ").split():
        if word.endswith(".ipynb"):
            assert (source.parent / word).with_suffix(".py").is_file(), word


def test_the_table_is_of_these_notebooks():
    readme = (SOURCES[0].parent / "README.md").read_text()
    assert table() in readme, "python -m notebooks.make --convert"


# ---------------------------------------------------------------- the maker


def notebook_of(*cells):
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])


def test_a_slow_cell_is_named():
    with pytest.raises(TimeoutError, match="cell 1 takes more than 1 s: 'import time"):
        run(notebook_of("x = 1", "import time; time.sleep(30)", "x"), cell_seconds=1)


def test_outputs_of_unchanged_cells_are_kept():
    old, new = notebook_of("1 + 1", "2 + 2"), notebook_of("1 + 1", "3 + 3")
    run(old)
    keep_outputs(new, old)
    assert [cell.execution_count for cell in new.cells] == [1, None]
    assert new.cells[0].outputs[0].data["text/plain"] == "2"


def test_a_image_of_few_colours_becomes_light_and_noise_and_soft_transitions_stay():
    def as_png(pixels):
        file = BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()

    g = np.random.default_rng(0)
    plain = np.full((96, 96, 3), (200, 60, 40), np.uint8)
    plain[20:60, 30:80] = (20, 90, 220)
    # as networks draw plain things
    grainy = (plain + g.integers(-2, 3, plain.shape)).astype(np.uint8)
    noise = g.integers(0, 256, (96, 96, 3), dtype=np.uint8)
    soft = np.full((96, 96, 3), 255, np.uint8)  # as blurs on a plain ground are
    soft[:32, :, 1:] = np.linspace(255, 215, 96, dtype=np.uint8)[:, None]
    small = lighter(as_png(grainy))
    with Image.open(BytesIO(small)) as image:
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - grainy).mean() <= 4
    assert len(small) < len(as_png(grainy)) / 2
    assert lighter(as_png(noise)) == as_png(noise) and lighter(as_png(soft)) == as_png(soft)


def test_a_first_cell_without_an_objective_is_refused():
    with pytest.raises(ValueError, match="Objective"):
        facts(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# 99 A title")]))


# ---------------------------------------------------------------- all of them, run


@pytest.mark.notebook
@each
def test_it_runs(source):
    assert importlib.util.find_spec("ipykernel"), "pip install -e .[test]"
    notebook = read(source)
    run(notebook, CELL_SECONDS)
    assert all(cell.execution_count for cell in code_cells(notebook))

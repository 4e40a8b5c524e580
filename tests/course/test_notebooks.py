"""The notebooks: each source agrees with its .ipynb, and each notebook runs from its first cell to
its last.
"""

import ast
import importlib.util
from io import BytesIO

import nbformat
import numpy as np
import pytest
from PIL import Image

from notebooks.make import (
    CELL_SECONDS,
    SETUP_CELL,
    facts,
    keep_outputs,
    lighter,
    read,
    run,
    sources,
    table,
)

SOURCES = sources()
NAMES = [p.stem for p in SOURCES]
each = pytest.mark.parametrize("source", SOURCES, ids=NAMES)
LARGEST = 1_500_000  # bytes of an .ipynb


def built(source):
    return nbformat.read(source.with_suffix(".ipynb"), as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_they_are_numbered_without_gaps():
    assert [name[:2] for name in NAMES] == [f"{i:02d}" for i in range(len(NAMES))]
    assert {p.stem for p in SOURCES[0].parent.glob("*.ipynb")} == set(NAMES)


@each
def test_a_notebook_is_built_from_its_source(source):
    expected, found = read(source), built(source)
    assert [(c.cell_type, c.source) for c in found.cells] == [
        (c.cell_type, c.source) for c in expected.cells
    ], (
        f"{source.with_suffix('.ipynb').name} is not built from {source.name}: python -m "
        f"notebooks.make {source.name[:2]}"
    )


@each
def test_a_notebook_contains_its_outputs(source):
    notebook = built(source)
    cells = code_cells(notebook)
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    outputs = [o for c in cells for o in c.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    assert not [o.text for o in outputs if o.output_type == "stream" and "Warning" in o.text]
    assert any({"image/png", "image/svg+xml"} & set(o.get("data", {})) for o in outputs)
    assert source.with_suffix(".ipynb").stat().st_size <= LARGEST
    nbformat.validate(notebook)


@each
def test_a_source_has_the_common_form(source):
    notebook = read(source)
    title, objective, before = facts(notebook)
    assert title.startswith(source.name[:2]) and objective and before
    assert notebook.cells[1].source == SETUP_CELL.rstrip("\n"), "the setup cell comes second"
    assert "REPOSITORY" not in source.read_text(), "the setup cell is in notebooks/make.py only"
    tree = ast.parse("\n".join(c.source for c in code_cells(notebook)))
    assert not [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [m for m in modules if m.split(".")[0] in ("sample", "train", "tests")], (
        "only the package is installed everywhere"
    )
    exercises = (
        source.parents[1] / "imagen_mini" / "course" / "exercises" / f"nb{source.name[:2]}.py"
    )
    assert exercises.is_file() == (f"nb{source.name[:2]}.check(" in source.read_text())


@each
def test_every_link_leads_to_a_notebook(source):
    for word in source.read_text().replace("(", " ").replace(")", " ").split():
        if word.endswith(".ipynb"):
            assert (source.parent / word).with_suffix(".py").is_file(), word


def test_the_table_lists_these_notebooks():
    readme = (SOURCES[0].parent / "README.md").read_text()
    assert table() in readme, "python -m notebooks.make --convert"


# ---------------------------------------------------------------- the builder


def notebook_of(*cells):
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])


def test_the_setup_cell_sets_the_wait_policy_before_torch_is_imported():
    assert 'os.environ.setdefault("OMP_WAIT_POLICY", "passive")' in SETUP_CELL
    assert "import torch" not in SETUP_CELL
    for source in SOURCES:
        first, second, *_ = read(source).cells
        assert (first.cell_type, second.cell_type) == ("markdown", "code"), source.name


def test_a_slow_cell_is_named():
    with pytest.raises(TimeoutError, match="cell 1 takes more than 1 s: 'import time"):
        run(notebook_of("x = 1", "import time; time.sleep(30)", "x"), cell_seconds=1)


def test_outputs_of_unchanged_cells_are_kept():
    old, new = notebook_of("1 + 1", "2 + 2"), notebook_of("1 + 1", "3 + 3")
    run(old)
    keep_outputs(new, old)
    assert [cell.execution_count for cell in new.cells] == [1, None]
    assert new.cells[0].outputs[0].data["text/plain"] == "2"


def test_only_images_of_few_colours_are_quantized():
    def as_png(pixels):
        file = BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()

    g = np.random.default_rng(0)
    plain = np.full((96, 96, 3), (200, 60, 40), np.uint8)
    plain[20:60, 30:80] = (20, 90, 220)
    # as networks generate plain objects
    grainy = (plain + g.integers(-2, 3, plain.shape)).astype(np.uint8)
    noise = g.integers(0, 256, (96, 96, 3), dtype=np.uint8)
    soft = np.full((96, 96, 3), 255, np.uint8)  # like a blur on a plain background
    soft[:32, :, 1:] = np.linspace(255, 215, 96, dtype=np.uint8)[:, None]
    small = lighter(as_png(grainy))
    with Image.open(BytesIO(small)) as image:
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - grainy).mean() <= 4
    assert len(small) < len(as_png(grainy)) / 2
    assert lighter(as_png(noise)) == as_png(noise) and lighter(as_png(soft)) == as_png(soft)


def test_a_first_cell_without_an_objective_is_refused():
    with pytest.raises(ValueError, match="Objective"):
        facts(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# 99 A title")]))


# ---------------------------------------------------------------- running all of them


@pytest.mark.notebook
@each
def test_it_runs(source):
    assert importlib.util.find_spec("ipykernel"), "pip install -e .[test]"
    notebook = read(source)
    run(notebook, CELL_SECONDS)
    assert all(cell.execution_count for cell in code_cells(notebook))

"""Build the notebooks: run each source NN_*.py and write it, with its images, as NN_*.ipynb.

    python -m notebooks.make                # all of them
    python -m notebooks.make 03 07          # some
    python -m notebooks.make --convert 03   # without running: keeps the outputs of cells that are unchanged

A source is a Python file in the py:percent form of Jupytext, which editors and diffs can read. Edit
the source, never the .ipynb. The setup cell (SETUP_CELL) is the same in every notebook, so no source
contains it: it is inserted after the first cell. Seconds are written into the table of
notebooks/README.md.
"""

from __future__ import annotations

import argparse
import re
import time
from base64 import b64decode, b64encode
from io import BytesIO
from pathlib import Path

import jupytext
import nbformat
import numpy as np
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError
from PIL import Image
from tqdm import tqdm

from imagen_mini.viz.image_grid import quantize_colors

FOLDER = Path(__file__).parent
CELL_SECONDS = 150  # the time limit of a cell, on a machine that also does other work
SETUP_CELL = """\
# On Colab: install the package from a clone. If it is installed already, this installs nothing.
import importlib.util
import os
import subprocess
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # idle threads sleep; set before torch loads

REPOSITORY = ""  # the address of your copy of imagen_mini, as `git clone` takes it
if importlib.util.find_spec("imagen_mini") is None:
    assert REPOSITORY, (
        "write the address of your copy of imagen_mini between the quotes above, "
        "and run all cells again"
    )
    subprocess.run(["git", "clone", "--depth", "1", REPOSITORY, "imagen_mini_clone"], check=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "./imagen_mini_clone"], check=True
    )
"""
TABLE = re.compile(r"(<!-- table: .*? -->\n).*?(<!-- end of table -->)", re.DOTALL)


def sources(names: list[str] | None = None) -> list[Path]:
    """The sources of the notebooks in order, or only those of the given numbers."""
    found = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
    chosen = [p for p in found if not names or p.name[:2] in names]
    if unknown := set(names or []) - {p.name[:2] for p in found}:
        raise SystemExit(
            f"no notebook {', '.join(sorted(unknown))}; there are "
            f"{', '.join(p.name[:2] for p in found)}"
        )
    return chosen


def read(source: Path) -> nbformat.NotebookNode:
    """A source as a notebook without outputs, with the setup cell inserted after the first cell.

    The cells are numbered, so that the same source always results in the same file.
    """
    notebook = jupytext.read(source)
    notebook.cells.insert(1, nbformat.v4.new_code_cell(SETUP_CELL.rstrip("\n")))
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        cell.metadata = {}
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def run(notebook: nbformat.NotebookNode, cell_seconds: int = CELL_SECONDS) -> float:
    """Run all cells in place.

    Returns:
        The seconds that this took.

    Raises:
        TimeoutError: A cell takes longer than `cell_seconds`; the message names it.
    """
    client = NotebookClient(
        notebook,
        timeout=cell_seconds,
        kernel_name="python3",
        resources={"metadata": {"path": str(FOLDER)}},
        record_timing=False,
    )
    start = time.perf_counter()
    try:
        client.execute()
    except CellTimeoutError:
        number = max(
            i
            for i, cell in enumerate(notebook.cells)
            if cell.cell_type == "code" and cell.execution_count is not None
        )
        raise TimeoutError(
            f"cell {number} takes more than {cell_seconds} s: "
            f"{notebook.cells[number].source[:200]!r}"
        ) from None
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data.pop("image/jpeg", None)  # Pillow's images are stored as both
                output.data["image/png"] = b64encode(
                    lighter(b64decode(output.data["image/png"]))
                ).decode()
    return time.perf_counter() - start


def lighter(png: bytes) -> bytes:
    """The image in 256 colours, if 95 % of its values change by at most 4 of 255.

    Images of noise and of soft transitions, which would show steps, are returned unchanged.
    """
    with Image.open(BytesIO(png)) as image, BytesIO() as file:
        if image.mode != "RGB":
            return png
        reduced = quantize_colors(image)
        change = np.abs(np.asarray(reduced.convert("RGB"), np.int16) - np.asarray(image))
        if np.quantile(change, 0.95) > 4:
            return png
        reduced.save(file, "PNG", optimize=True)
        return min(file.getvalue(), png, key=len)


def keep_outputs(notebook: nbformat.NotebookNode, old: nbformat.NotebookNode) -> None:
    """Copy to each code cell the outputs of the old notebook's cell with the same source."""
    known = {cell.source: cell for cell in old.cells if cell.cell_type == "code"}
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.source in known:
            cell.outputs, cell.execution_count = (
                known[cell.source].outputs,
                known[cell.source].execution_count,
            )


def facts(notebook: nbformat.NotebookNode) -> tuple[str, str, str]:
    """Title, objective and prerequisites, read from the first cell of a notebook."""
    first = notebook.cells[0].source
    title = re.search(r"^# (.+)$", first, re.MULTILINE)
    objective, before = (
        re.search(rf"^\*\*{name}:\*\* (.+)$", first, re.MULTILINE)
        for name in ("Objective", "Before this")
    )
    if not (title and objective and before):
        raise ValueError(
            "the first cell needs a title, **Objective:** and **Before this:**; it is "
            f"{first[:200]!r}"
        )
    return title[1], objective[1], before[1]


def table() -> str:
    """A Markdown table of all built notebooks: objective, prerequisites, seconds."""
    lines = ["| notebook | objective | before this | seconds |", "|---|---|---|---|"]
    total = 0.0
    for source in sources():
        made = source.with_suffix(".ipynb")
        if made.is_file():
            notebook = nbformat.read(made, as_version=4)
            title, objective, before = facts(notebook)
            seconds = notebook.metadata.get("seconds", 0)
            total += seconds
            lines.append(f"| [{title}]({made.name}) | {objective} | {before} | {seconds:.0f} |")
    return "\n".join([*lines, f"| all | | | {total:.0f} |", ""])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m notebooks.make",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "names", nargs="*", metavar="NN", help="numbers of notebooks (default: all)"
    )
    parser.add_argument(
        "--convert",
        action="store_true",
        help="do not run, only convert; the outputs of unchanged cells are kept",
    )
    parser.add_argument(
        "--cell-seconds",
        type=int,
        default=CELL_SECONDS,
        help=f"time limit for a cell (default: {CELL_SECONDS})",
    )
    args = parser.parse_args(arguments)
    for source in tqdm(sources(args.names), desc="notebooks"):
        made, notebook = source.with_suffix(".ipynb"), read(source)
        facts(notebook)
        if args.convert and made.is_file():
            old = nbformat.read(made, as_version=4)
            keep_outputs(notebook, old)
            notebook.metadata["seconds"] = old.metadata.get("seconds", 0)
        elif not args.convert:
            notebook.metadata["seconds"] = round(run(notebook, args.cell_seconds), 1)
            tqdm.write(f"{made.name}: {notebook.metadata['seconds']:.0f} s")
        nbformat.write(notebook, made)
    readme = FOLDER / "README.md"
    readme.write_text(TABLE.sub(lambda found: found[1] + table() + found[2], readme.read_text()))


if __name__ == "__main__":
    main()

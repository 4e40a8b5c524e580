"""Captioned image folders, in the forms in which people keep them.

A table `metadata.jsonl`, `metadata.csv`, `metadata.tsv`, `metadata.json` or `metadata.parquet`
beside the images, as Hugging Face's `imagefolder` reads it:

    {"file_name": "cats/1.jpg", "text": "a grey cat on a chair"}
    {"file_name": "2.png", "text": ["a red boat", "a small boat at sea"]}

Or a text file beside each image, `1.txt` beside `1.png`, with one caption a line. Or, where there
is neither, a table of the same kind that is called `captions.csv`. Each may lie in subfolders.
Where one of these is called `train`, the other splits are left out: they are held out of training.

SVG drawings count as images where the package resvg_py is installed, unless a PNG or the like of
the same name lies beside them.

The column of captions is `text`, `caption`, `prompt` or one of `CAPTION_COLUMNS`, in capitals or
not. Other columns are ignored, but for `split_reason` and those that are asked for as labels. Of
several captions one is chosen each time the image is seen.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PureWindowsPath
from typing import Any

from imagen_mini.data.image_io import SUFFIXES
from imagen_mini.data.svg import MISSING, SVG_SUFFIXES, can_render_svg

METADATA = "metadata.jsonl"  # the form that we write
TABLES = (METADATA, "metadata.csv", "metadata.tsv", "metadata.parquet", "metadata.json")
# looked for where there are neither those nor text files
OTHER_TABLES = tuple(name.replace("metadata", "captions") for name in TABLES)
TEXTS = (".txt", ".caption")  # of files that hold the captions of one image
# in the order in which they are looked for; any name that ends with file_name is read as well
NAME_COLUMNS = (
    *("file_name", "filename", "file", "image", "image_path", "path"),
    *("file_path", "filepath", "image_file", "image_name", "img"),
)
CAPTION_COLUMNS = ("text", "caption", "prompt", "texts", "captions", "prompts", "description")
NO_VALUE = "none"  # the label where a column says null
REASON = "split_reason"  # the column that says why an image is held out of training
TRAINING_SPLITS = ("train", "training")  # names of folders, as `datasets` knows them
OTHER_SPLITS = ("test", "testing", "eval", "evaluation", "val", "valid", "validation", "dev")
# of files that need no row: what people write beside images
DOCUMENTS = re.compile(r"(LICEN[CS]E|COPYING|COPYRIGHT|NOTICE|README)([._-].*)?", re.IGNORECASE)

SEPARATORS = re.compile(r"[\s,]*")  # between values of JSON


@dataclass(frozen=True)
class Row:
    """One image of a folder."""

    source: str  # the file that holds its captions, relative to the folder
    line: int  # of that file, from 1; in a list of JSON, the number of the item
    column: str | None  # that the captions stand in; None: the source is text, and of this image
    name: str  # of the image, as it stands there
    path: Path  # of a file that is there, links resolved
    captions: tuple[str, ...]
    reason: str | None = None  # why the image is held out of training, if the source says it
    # what it shows, by column, of the columns that were asked for
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict, compare=False)

    @property
    def where(self) -> str:
        """Where the row stands, for messages."""
        return self.source if self.column is None else f"{self.source} line {self.line}"


class Problem(str):
    """What is wrong with a row that cannot be used, like 'metadata.jsonl line 3: ...'."""

    path: Path | None = None  # of its image, if that is there


def read_metadata(
    folder: str | Path,
    caption_column: str | None = None,
    held_out: bool = False,
    label_columns: Sequence[str] = (),
) -> tuple[list[Row], list[Problem]]:
    """Read the captions of a folder. Images are not opened.

    Args:
        folder: The folder.
        caption_column: Where the captions stand, in a table; text files are not read. None: in the
            first of `CAPTION_COLUMNS` that a row fills.
        held_out: Read the splits that are left out otherwise: those in folders called test,
            validation and the like, beside one called train.
        label_columns: Columns of tables that are kept as `Row.labels`, where a row has them.

    Returns:
        The rows that can be used, and the problems of the others.

    Raises:
        FileNotFoundError: There is no such folder, or there are no captions in it.
        ValueError: A metadata.parquet, and pyarrow is not installed; or a column of captions is
            asked for, and the captions are text files.
    """
    root = Path(folder).resolve()
    rows: list[Row] = []
    problems: list[Problem] = []
    if root.is_dir():
        # 1. tables, 2. text files beside the images, 3. tables of another name
        forms = (TABLES, None, OTHER_TABLES)
        for names in forms if caption_column is None else (TABLES, OTHER_TABLES):
            if names is None:
                for image, text in _images_with_texts(root, held_out):
                    _read_text(root, image, text, rows, problems)
                at_top = False
            else:
                tables = find_tables(root, names, held_out)
                for table in tables:
                    _read_table(root, table, caption_column, label_columns, rows, problems)
                at_top = any(table.parent == root for table in tables)
            if at_top:  # one table for all splits
                paths = [_path_in(root, row) for row in rows]
                kept = set(_training_split(root, paths, held_out))
                rows = [row for row, path in zip(rows, paths) if path in kept]
                at_top = not held_out
                problems = problems if rows or at_top else []
            if rows or problems or at_top:
                return rows, problems
        if caption_column is not None and (pairs := _images_with_texts(root, held_out)):
            raise ValueError(
                f"{root}: its captions are in text files such as {pairs[0][1].name}, which have no "
                f"column {caption_column!r}; leave --caption-column out"
            )
        if held_out:
            raise FileNotFoundError(
                f"{root} has no split that is held out; expected folders train and test in it"
            )
    raise FileNotFoundError(
        f"{root} {_what_is_there(root)}; expected images and a {METADATA} with lines like "
        '{"file_name": "1.png", "text": "a caption"}'
        ", a metadata.csv with these columns, or a text file 1.txt beside each image 1.png"
    )


def describe_form(rows: Iterable[Row]) -> str:
    """In which form the captions were found, like "metadata.csv, captions from 'caption'"."""
    rows = list(rows)
    sources = list(dict.fromkeys(row.source for row in rows if row.column is not None))
    columns = list(dict.fromkeys(row.column for row in rows if row.column is not None))
    if not sources:
        return "captions from text files beside the images"
    shown = ", ".join(sources[:3]) + (f" and {len(sources) - 3} more" if sources[3:] else "")
    return f"{shown}, captions from {', '.join(map(repr, columns))}"


# ---------------------------------------------------------------- where the captions are


def find_tables(root: Path, names: tuple[str, ...] = TABLES, held_out: bool = False) -> list[Path]:
    """The tables of a folder: the one at its top, or else those of its subfolders.

    Args:
        root: The folder.
        names: What they may be called, in the order in which one of them is preferred.
        held_out: Those of the splits that are held out.
    """

    def rank(path: Path) -> int:
        return names.index(path.name.lower())

    at_top = [path for path in root.iterdir() if path.name.lower() in names and path.is_file()]
    if at_top:
        return [min(at_top, key=rank)]  # its rows say which split they are of
    found: dict[Path, list[Path]] = {}
    for path in _files(root):
        if path.name.lower() in names:  # one a folder
            found.setdefault(path.parent, []).append(path)
    tables = [min(tables, key=rank) for tables in found.values()]
    return _training_split(root, tables, held_out)


def _images_with_texts(root: Path, held_out: bool = False) -> list[tuple[Path, Path]]:
    """Images, each with the text file beside it that has the same name: 1.txt or 1.png.txt."""
    images, texts = [], {}
    drawings = SVG_SUFFIXES if can_render_svg() else ()
    for path in _files(root):
        suffix = path.suffix.lower()
        if suffix in TEXTS:
            texts.setdefault(path.with_suffix(""), path)
        elif suffix in (*SUFFIXES, *drawings):
            images.append(path)
    rendered = {i.with_suffix("") for i in images if i.suffix.lower() in SUFFIXES}
    images = [
        i for i in images if i.suffix.lower() in SUFFIXES or i.with_suffix("") not in rendered
    ]
    of = {i: texts.get(i.with_suffix("")) or texts.get(i) for i in images}
    return [(i, of[i]) for i in _training_split(root, [i for i in images if of[i]], held_out)]


def _files(root: Path) -> Iterator[Path]:
    """All files of a folder and its subfolders in order of name, hidden ones apart."""
    for parent, folders, files in os.walk(root):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        yield from (Path(parent, f) for f in sorted(files) if not f.startswith("."))


def _path_in(root: Path, row: Row) -> Path:
    """Where a row of the table at the top says that its image is; links are not followed."""
    if not Path(row.name).is_absolute():
        return root / row.name
    return row.path if row.path.is_relative_to(root) else root / row.path.name


def _training_split(root: Path, paths: list[Path], held_out: bool = False) -> list[Path]:
    """Those in folders called train; if there are none, those that are in no other split. With
    `held_out`: those in other splits, if there are any in folders called train.
    """

    def within(splits: tuple[str, ...]) -> list[Path]:
        return [
            p
            for p in paths
            if any(part.lower() in splits for part in p.relative_to(root).parent.parts)
        ]

    training, other = within(TRAINING_SPLITS), within(OTHER_SPLITS)
    if held_out:
        return [p for p in other if p not in training] if training else []
    return training or [p for p in paths if p not in set(other)] or paths


def _what_is_there(root: Path) -> str:
    """What a folder without captions is or holds instead, for a message."""
    if not root.is_dir():
        return "is no folder" + (": name the folder that it lies in" if root.is_file() else "")
    names = sorted(path.relative_to(root).as_posix() for path in _files(root))
    stems = [n.rpartition(".")[0] for n in names if n.lower().endswith(SUFFIXES)]
    images, beside = len(stems), set(stems)
    tables = [
        n
        for n in names
        if n.endswith((".csv", ".tsv", ".json", ".jsonl")) and n.rpartition(".")[0] not in beside
    ]
    what = f"has no {METADATA}"
    if any(n.endswith((".arrow", ".parquet")) for n in names):
        return (
            f"{what}, but a data set with the images inside: python -m train.download_dataset "
            f"{root} --out NEW_FOLDER writes them as files"
        )
    if any(n.lower().endswith((".tar", ".zip", ".tar.gz", ".tgz")) for n in names):
        return f"{what}, but archives: unpack them first"
    if tables:
        return f"{what}, but {tables[0]}: call it metadata{Path(tables[0]).suffix}"
    drawings = sum(n.lower().endswith(SVG_SUFFIXES) for n in names)
    if drawings and not images:
        how = "without captions" if can_render_svg() else f"({MISSING})"
        return f"{what}, but {drawings} SVG drawings {how}"
    return f"{what}, but {images} images without captions" if images else what


# ---------------------------------------------------------------- tables


def _read_table(
    root: Path,
    table: Path,
    caption_column: str | None,
    label_columns: Sequence[str],
    rows: list[Row],
    problems: list[Problem],
) -> None:
    """Add the rows and problems of a table."""
    source = table.relative_to(root).as_posix()
    for line, values in _READERS[table.suffix.lower()](table.read_bytes()):
        path = None
        try:
            if isinstance(values, ValueError):
                raise values
            name = _name(values)
            path = inside(root, name, table.parent)
            column, captions = _captions(values, caption_column)
            reason = values.get(REASON)
            reason = reason if isinstance(reason, str) else None
            labels = _labels(values, label_columns)
            rows.append(Row(source, line, column, name, path, captions, reason, labels))
        except ValueError as error:
            problem = Problem(f"{source} line {line}: {error}")
            problem.path = path
            problems.append(problem)


def _key(values: dict[str, Any], column: str) -> str:
    """The name that a column has in a row: capitals and spaces around it do not matter."""
    if column in values:
        return column
    return next((k for k in values if str(k).strip().lower() == column.lower()), column)


def _name(values) -> str:
    """The file name in a row."""
    if isinstance(values, dict):
        others = [column for column in values if str(column).endswith("file_name")]
        for column in (*NAME_COLUMNS, *others):
            if isinstance(name := values.get(_key(values, column)), str):
                return name
    raise ValueError(
        f'expected an object with "file_name" and "text"; got '
        f"{json.dumps(values, default=str)!r:.80}"
    )


def _captions(values: dict[str, Any], column: str | None) -> tuple[str, tuple[str, ...]]:
    """The column of captions in a row, and the captions."""
    columns = [_key(values, c) for c in (CAPTION_COLUMNS if column is None else (column,))]
    used = next((c for c in columns if values.get(c) is not None), None)
    if used is None:
        names = {_key(values, c) for c in NAME_COLUMNS}
        present = [c for c in values if c not in names]
        used = next((c for c in columns if c in values), columns[0])
        hint = f"; the row has {', '.join(map(repr, present))}" if present else ""
        if column is None and present and used not in values:
            hint += f" (--caption-column {present[0]}?)"
        raise ValueError(f'"{used}" must be a caption or a list of captions; got null{hint}')
    captions = values[used]
    captions = [captions] if isinstance(captions, str) else captions
    if not isinstance(captions, list) or not captions:
        raise ValueError(
            f'"{used}" must be a caption or a list of captions; got {json.dumps(captions):.80}'
        )
    for caption in captions:
        if problem := caption_problem(caption):
            raise ValueError(problem)
    return used, tuple(captions)


def _labels(values: dict[str, Any], columns: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The values of some columns as text; of null, that it is none."""
    found = {}
    for column in columns:
        if (key := _key(values, column)) in values:
            value = values[key]
            several = value if isinstance(value, list) else [value]
            found[column] = tuple(NO_VALUE if v is None else str(v) for v in several)
    return found


def caption_problem(caption) -> str | None:
    """Why this is no caption; None if it is one."""
    if not isinstance(caption, str):
        return f"a caption must be a string; got {json.dumps(caption, default=str):.80}"
    if not caption.strip():
        return "the caption is empty"
    if "\0" in caption:
        return f"the caption holds a NUL character: {caption!r:.80}"
    if any("\ud800" <= c <= "\udfff" for c in caption):
        return f"the caption holds a lone surrogate, which is no text: {caption!r:.80}"
    return None


def inside(root: Path, name: str, base: Path | None = None) -> Path:
    """The file of a folder that a row names.

    A name may be relative to the file that holds the row, or to the folder, or begin with the name
    of the folder, or be absolute. Slashes may be those of Windows. If there is no such file, an
    image is taken whose name differs in its ending alone, in capitals, in spaces around it or in
    how accents are written; but not one of two.

    Args:
        root: The folder, resolved.
        name: The name.
        base: Where the file that holds the row lies. None: in `root`.

    Raises:
        ValueError: It is no file, or not in `root` after links are followed.
    """
    problem = None
    if name:
        for folder in dict.fromkeys((base or root, root, root.parent)):
            for spelling in dict.fromkeys((name, name.replace("\\", "/"))):
                try:
                    return _file_inside(root, folder, spelling)
                except ValueError as error:
                    if problem is None or folder != root.parent:
                        problem = error
    raise problem or ValueError(
        f"file_name {name!r} leads out of the folder; expected a path inside it, like 'cats/1.jpg'"
    )


def _file_inside(root: Path, base: Path, name: str) -> Path:
    """The file `name` of the folder `base`, which is `root` or in it."""
    try:
        path = (base / name).resolve()
        found = path.is_file()
        if not found and path.parent.is_relative_to(root) and path.parent.is_dir():
            changed = path.parent.stat().st_mtime_ns
            similar = _images_by_plain_name(path.parent, changed).get(_plain(path.name), [])
            if len(similar) == 1:
                path, found = (path.parent / similar[0]).resolve(), True
    except (OSError, ValueError, RuntimeError) as error:  # too long, no text, links in a circle
        raise ValueError(f"file_name {name!r:.80} is no usable path: {error}") from None
    if found and path.is_relative_to(root):
        return path
    drive = PureWindowsPath(name).drive and os.name != "nt"  # of another machine
    if drive or not Path(os.path.normpath(base / name)).is_relative_to(root):
        raise ValueError(
            f"file_name {name!r} leads out of the folder; expected a path inside it, like "
            "'cats/1.jpg'"
        )
    if not path.is_relative_to(root):
        raise ValueError(f"file_name {name!r} is a link that leads out of the folder, to {path}")
    raise ValueError(
        f"file_name {name!r} is {'a folder' if path.is_dir() else 'not there'}; expected an image"
    )


def _plain(name: str) -> str:
    """A file name without what systems write differently: capitals, accents, spaces around it."""
    return unicodedata.normalize("NFC", name.strip()).casefold()


@lru_cache(maxsize=64)
def _images_by_plain_name(folder: Path, changed: int) -> dict[str, list[str]]:
    """The images of a folder by their plain names, with their endings and without. `changed` is
    when it was changed last.
    """
    found: dict[str, list[str]] = {}
    drawings = SVG_SUFFIXES if can_render_svg() else ()
    names = sorted(os.listdir(folder))
    for suffixes in (SUFFIXES, drawings):
        images: dict[str, list[str]] = {}
        for name in names:
            if name.lower().endswith(suffixes) and os.path.isfile(folder / name):
                for key in (_plain(name), _plain(name.rpartition(".")[0])):
                    images.setdefault(key, []).append(name)
        found = images | found
    return found


# ---------------------------------------------------------------- the forms of tables
#
# Each reader maps the content of a file to pairs: a line number, and a row or what is wrong with it


def _decode_lines(content: bytes) -> Iterator[tuple[int, str | ValueError]]:
    """The lines of UTF-8, UTF-16 or UTF-32, with their numbers. Lines are decoded one by one where
    that can be done, so that one bad line spoils no other.
    """
    encoding = json.detect_encoding(content)
    if not encoding.startswith("utf-8"):
        text = content.decode(encoding, errors="replace").removeprefix("\ufeff")
        yield from enumerate(text.split("\n" if "\n" in text else "\r"), 1)
        return
    end = b"\n" if b"\n" in content else b"\r"  # an old Mac's
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(end), 1):
        try:
            yield number, line.decode("utf-8")
        except UnicodeDecodeError as error:
            yield (
                number,
                ValueError(
                    f"no UTF-8 at byte {error.start} (0x{line[error.start]:02x}); save the file "
                    "as UTF-8"
                ),
            )


def _json_rows(content: bytes) -> Iterator[tuple[int, Any]]:
    """One object a line, with or without commas between them; or objects over several lines; or one
    value that `_rows_of` understands.
    """
    # 1. all of it as one value, if it is one
    whole = None
    first = next((line for _, line in _decode_lines(content) if str(line).strip()), "")
    if not first:
        return
    over_lines = isinstance(_parse_json(first), ValueError)  # the first line is no row of its own
    a_list = content[:100].lstrip(b"\xef\xbb\xbf\xfe\xff\0 \t\r\n")[:1] == b"["
    if over_lines or a_list or b"\n" not in content:
        whole = _rows_of(_parse_json(content))
    if isinstance(whole, dict):
        whole = [whole]
    if isinstance(whole, ValueError) and over_lines and not a_list:
        whole = _objects_in_a_row(content) or whole
    if isinstance(whole, list):
        yield from enumerate(whole, 1)
        return
    # 2. line by line
    rows: list[tuple[int, Any]] = []
    for number, line in _decode_lines(content):
        if isinstance(line, ValueError):
            rows.append((number, line))
        elif line.strip() not in ("", "[", "]"):
            value = _parse_json(line)
            if isinstance(value, ValueError):  # a part of a list, with a comma behind
                part = _parse_json(line.strip().removeprefix("[").rstrip(",] \t"))
                value = part if isinstance(part, dict) else value
            rows.append((number, value))
    # 3. not one row: then it is one value with a mistake in it
    if isinstance(whole, ValueError) and not any(isinstance(row, dict) for _, row in rows):
        rows = [(1, whole)]
    yield from rows


def _rows_of(value: Any) -> Any:
    """The list of rows that one JSON value stands for; what is none stays as it is.

    It may be the list itself, alone or as the only list of objects in an object; a caption or an
    object for each file name; or all values of each column.
    """
    if not isinstance(value, dict):
        return value
    names = next((value[k] for c in NAME_COLUMNS if (k := _key(value, c)) in value), None)
    if isinstance(names, str):
        return value
    # 1. columns: as lists, or by the number of the row, as pandas writes them
    if isinstance(names, (list, dict)):
        keys = range(len(names)) if isinstance(names, list) else names
        columns = {c: v for c, v in value.items() if type(v) is type(names)}
        if all(len(v) == len(names) for v in columns.values()):
            return [{c: _item(v, key) for c, v in columns.items()} for key in keys]
        return value
    # 2. a list of objects under a name
    lists = [v for v in value.values() if v and isinstance(v, list) and isinstance(v[0], dict)]
    if lists:
        return lists[0] if len(lists) == 1 else value
    # 3. captions by name
    if value and all(isinstance(v, (dict, list, str)) for v in value.values()):
        return [
            {"file_name": name, **(of if isinstance(of, dict) else {"text": of})}
            for name, of in value.items()
        ]
    return value


def _item(values: list[Any] | dict[str, Any], key: Any) -> Any:
    """An item of a list or of an object; None if there is none."""
    return values.get(key) if isinstance(values, dict) else values[key]


def _objects_in_a_row(content: bytes) -> list[Any]:
    """Objects one behind the other, each over several lines; none if there is anything else."""
    text = "\n".join(str(line) for _, line in _decode_lines(content))
    decoder, found, at = json.JSONDecoder(), [], 0
    try:
        while (at := at + len(SEPARATORS.match(text, at)[0])) < len(text):
            value, at = decoder.raw_decode(text, at)
            found.append(value)
    except (ValueError, RecursionError):
        return []
    return found


def _parse_json(content: str | bytes | ValueError) -> Any:
    """A value, or what is wrong with it."""
    if isinstance(content, ValueError):
        return content
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        return ValueError(f"no JSON at {line}column {error.colno} ({error.msg})")
    except RecursionError:
        return ValueError("JSON nested too deeply")
    except ValueError as error:  # no text, or a number of very many digits
        return ValueError(f"no JSON ({error})")


def _csv_rows(content: bytes) -> Iterator[tuple[int, Any]]:
    """The cells of each row by the names in the first one, between commas, semicolons, tabs or
    bars.
    """
    lines = list(_decode_lines(content))
    for number, line in lines:
        if isinstance(line, ValueError):
            yield number, line
            return
    text = "\n".join(str(line) for _, line in lines)
    first = text.partition("\n")[0]
    delimiter = max(",;\t|", key=first.count)
    file = io.StringIO(text, newline="")
    table = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
    names: list[str] | None = None
    while True:
        try:
            cells = next(table, None)
        except csv.Error as error:
            yield table.line_num, ValueError(f"no CSV ({error})")
            continue
        if cells is None:
            return
        if not any(cells):
            continue
        if names is None:
            names = [name.strip() for name in cells]
        elif len(cells) != len(names):
            yield (
                table.line_num,
                ValueError(
                    f"{len(cells)} cells, but the first line names {len(names)}: "
                    f"{', '.join(names)}; put a caption with a comma in it between double quotes"
                ),
            )
        else:
            yield table.line_num, dict(zip(names, cells))


def _parquet_rows(content: bytes) -> Iterator[tuple[int, Any]]:
    """The rows of a Parquet file."""
    try:
        from pyarrow import ArrowException, BufferReader, parquet
    except ImportError:
        raise ValueError(
            'a metadata.parquet needs the package pyarrow: pip install -e ".[hub]"'
        ) from None
    try:
        yield from enumerate(parquet.read_table(BufferReader(content)).to_pylist(), 1)
    except (ArrowException, OSError) as error:
        yield 1, ValueError(f"no Parquet ({error})")


_READERS = {
    ".jsonl": _json_rows,
    ".json": _json_rows,
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".parquet": _parquet_rows,
}


# ---------------------------------------------------------------- text files beside the images


def _read_text(
    root: Path, image: Path, text: Path, rows: list[Row], problems: list[Problem]
) -> None:
    """Add the row of an image whose captions stand in a text file, one a line."""
    source, path = text.relative_to(root).as_posix(), None
    try:
        path = inside(root, image.name, image.parent)
        captions = []
        for _, line in _decode_lines(text.read_bytes()):
            if isinstance(line, ValueError):
                raise line
            if line.strip():
                captions.append(line.strip())
        for caption in captions or [""]:
            if problem := caption_problem(caption):
                raise ValueError(problem)
        name = image.relative_to(root).as_posix()
        rows.append(Row(source, 1, None, name, path, tuple(captions)))
    except (OSError, ValueError) as error:
        problem = Problem(f"{source}: {error}")
        problem.path = path
        problems.append(problem)


# ---------------------------------------------------------------- files without a row, writing


def unlisted(folder: str | Path, rows: Iterable[Row], problems: Iterable[str] = ()) -> list[str]:
    """Files of the folder that no row names, sorted. Hidden ones are left out, and licences and the
    like; and where one split is read, those of the others.

    Args:
        folder: The folder.
        rows: Its rows, from `read_metadata`.
        problems: Its other rows, likewise. Their images are named, too.
    """
    root, rows = Path(folder).resolve(), list(rows)
    listed = {row.path for row in rows} | {getattr(problem, "path", None) for problem in problems}
    captions = {*find_tables(root), *(root / row.source for row in rows)}
    files = [path for path in _files(root) if not DOCUMENTS.fullmatch(path.name)]
    in_splits = all(path.parent != root for path in captions)
    if in_splits and _training_split(root, files, held_out=True):
        files = _training_split(root, files)
    found = []
    for path in files:
        try:
            resolved = path.resolve()
        except (OSError, RuntimeError):  # links in a circle
            resolved = path
        if resolved not in listed and path not in captions:
            found.append(str(path.relative_to(root)))
    return sorted(found)


def write_folder(out: str | Path, images: Iterable[tuple[str, bytes, str | list[str]]]) -> int:
    """Write a captioned folder. metadata.jsonl comes last, so a folder that has one is complete.

    Captions are first collected in a hidden file. If writing was interrupted, another call goes on
    behind the images that are there (`written_rows`).

    Args:
        out: A new or empty folder, or one that was interrupted.
        images: File name, content of the file, caption or captions.

    Returns:
        How many images there are now.

    Raises:
        FileExistsError: `out` already holds something else.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    temp = out / f".{METADATA}"
    if not temp.is_file() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty; expected a new folder, or an empty one")
    rows = written_rows(out)
    # without what a kill left of the last line
    aside = temp.with_suffix(".tmp")
    aside.write_text("".join(map(_json_line, rows)), encoding="utf-8")
    os.replace(aside, temp)
    with open(temp, "a", encoding="utf-8") as file:
        for name, content, captions in images:
            (out / name).write_bytes(content)
            rows.append({"file_name": name, "text": captions})
            file.write(_json_line(rows[-1]))
            file.flush()
    os.replace(temp, out / METADATA)
    return len(rows)


def _json_line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def written_rows(out: str | Path) -> list[dict[str, Any]]:
    """The rows of a folder whose writing by `write_folder` was interrupted; none if it is new."""
    temp = Path(out) / f".{METADATA}"
    values = [
        _parse_json(line)
        for _, line in (_decode_lines(temp.read_bytes()) if temp.is_file() else ())
    ]
    return [value for value in values if isinstance(value, dict)]

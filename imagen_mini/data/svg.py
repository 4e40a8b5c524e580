"""SVG drawings -> images, by the package resvg_py where it is installed."""

from __future__ import annotations

import gzip
import re
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

from PIL import Image

SVG_SUFFIXES = (".svg", ".svgz")
DPI = 96.0  # of CSS: what centimetres and points in a drawing are taken for
MAX_BYTES = 64 * 2**20  # of a drawing as text; a compressed file of a few kB can hold billions
MAX_DEPTH = 200  # elements inside each other; the renderer ends the process at some thousands
# an image in another file: of what this machine holds, nothing belongs into a drawing
OTHER_FILE = re.compile(
    rb"""(<(?:\w+:)?(?:image|feImage)\b[^>]*?href\s*=\s*["'])(?!\s*(?:data:|\#))[^"']*"""
)
MISSING = 'to read SVG drawings, install the package resvg-py: pip install -e ".[svg]"'


def can_render_svg() -> bool:
    """True if the package resvg_py is installed."""
    return find_spec("resvg_py") is not None


def looks_like_svg(path: Path) -> bool:
    """True for a file that is SVG by its name and its first bytes."""
    if path.suffix.lower() not in SVG_SUFFIXES:
        return False
    with open(path, "rb") as file:
        head = file.read(4096)
    return head.startswith(b"\x1f\x8b") or b"<" in head


def render_svg(drawing: bytes | str, side: int) -> Image.Image:
    """A drawing as RGBA, as large as fits into a square. Where nothing is drawn it is transparent.

    Fonts of the system are used for text. Images in other files are left out.

    Args:
        drawing: The SVG, compressed by gzip or not.
        side: Pixels of the longer side.

    Returns:
        The image, of mode RGBA.

    Raises:
        ImportError: resvg_py is not installed.
        ValueError: It is no SVG, or none that can be rendered.
    """
    return Image.open(BytesIO(render_svg_png(drawing, side))).convert("RGBA")


def render_svg_png(drawing: bytes | str, side: int) -> bytes:
    """`render_svg` as the bytes of a PNG file. Equal drawings are equal files."""
    if not can_render_svg():
        raise ImportError(MISSING)
    import resvg_py

    text = _plain_text(drawing.encode() if isinstance(drawing, str) else drawing)
    check_depth(text)
    source = OTHER_FILE.sub(rb"\1", text).decode("utf-8", errors="replace")
    fonts = "<text" in source or ":text" in source  # to find them takes time
    try:
        png = resvg_py.svg_to_bytes(
            svg_string=source, width=side, height=side, dpi=DPI, skip_system_fonts=not fonts
        )
    except BaseException as error:  # its crashes are no Exception
        if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
            raise
        raise ValueError(f"it cannot be rendered: {error}") from error
    return bytes(png)


def _plain_text(drawing: bytes) -> bytes:
    """The text of a drawing, decompressed and as UTF-8."""
    if drawing.startswith(b"\x1f\x8b"):
        try:
            with gzip.GzipFile(fileobj=BytesIO(drawing)) as file:
                drawing = file.read(MAX_BYTES + 1)
        except (OSError, EOFError) as error:
            raise ValueError(f"it cannot be decompressed: {error}") from error
    if len(drawing) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES:,} bytes of SVG; expected fewer")
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16")):
        if drawing.startswith(mark):
            return drawing.decode(encoding, errors="replace").encode()
    declared = re.match(rb"""<\?xml[^>]*encoding=["']([\w-]+)["'][^>]*\?>""", drawing)
    if declared and declared[1].lower() not in (b"utf-8", b"us-ascii"):
        try:
            text = drawing[declared.end() :].decode(declared[1].decode())
        except (LookupError, UnicodeDecodeError) as error:
            raise ValueError(f"its text cannot be decoded: {error}") from error
        return text.encode()
    return drawing


def check_depth(text: bytes) -> None:
    """Raise ValueError for what is no SVG, or has elements inside more than `MAX_DEPTH` others."""
    depth, root = 0, ""

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth, root
        depth, root = depth + 1, root or name
        if depth > MAX_DEPTH:
            raise ValueError(f"elements inside more than {MAX_DEPTH} others; expected fewer")

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1

    from xml.parsers import expat  # here, so that whoever reads no drawing needs no XML

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise ValueError(f"no SVG: {error}") from error
    if root.rpartition(":")[2] != "svg":
        raise ValueError(f"no SVG: its first element is <{root}>")

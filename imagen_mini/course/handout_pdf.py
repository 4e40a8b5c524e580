"""Handouts as PDF, by two small libraries: markdown-it-py reads them and fpdf2 lays them out.

    python -m imagen_mini.course.build hw1 --out handout/ --pdf

needs `pip install "imagen_mini[course]"`. The same text always gives the same bytes.
"""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

MISSING = (
    "a handout as PDF needs the package {name}, which is not installed; run "
    '`pip install "imagen_mini[course]"`, or leave out --pdf'
)
MARGIN, SIZE, SMALL = 20, 10, 8.5  # mm, and points of text and of code


class PdfError(Exception):
    """No PDF can be made; the message says what is missing."""


def handout_pdf(text: str) -> bytes:
    """A handout as PDF, on A4.

    Args:
        text: The handout in Markdown: headings, paragraphs, lists, tables, code.

    Raises:
        PdfError: A package that this needs is not installed.
    """
    try:
        from fpdf import FPDF
        from fpdf.fonts import FontFace, TextStyle
        from markdown_it import MarkdownIt
    except ImportError as error:
        missing = {"fpdf": "fpdf2", "markdown_it": "markdown-it-py"}
        name = missing.get((error.name or "").partition(".")[0], error.name or "fpdf2")
        raise PdfError(MISSING.format(name=name)) from None
    # 1. The page, with the fonts that matplotlib brings along: they know all letters of a handout.
    pdf = FPDF(format="A4")
    pdf.set_creation_date(datetime(2000, 1, 1, tzinfo=UTC))
    pdf.set_margin(MARGIN)
    pdf.set_auto_page_break(True, MARGIN)
    for family, name in (("text", "DejaVuSans"), ("code", "DejaVuSansMono")):
        for style, ending in (("", ""), ("B", "-Bold"), ("I", "-Oblique"), ("BI", "-BoldOblique")):
            pdf.add_font(family, style, _fonts() / f"{name}{ending}.ttf")
    pdf.add_page()
    pdf.set_font("text", size=SIZE)
    # 2. Markdown becomes HTML, and HTML the page.
    pdf.write_html(
        _as_fpdf_likes_it(MarkdownIt("commonmark").enable("table").render(text)),
        font_family="text",
        tag_styles={
            "h1": TextStyle(font_family="text", font_style="B", font_size_pt=17, b_margin=3),
            "h2": TextStyle(
                font_family="text", font_style="B", font_size_pt=13, t_margin=4, b_margin=1.5
            ),
            "pre": TextStyle(font_family="code", font_size_pt=SMALL, t_margin=1),
            "code": FontFace(family="code", size_pt=SMALL),
        },
        table_line_separators=True,
    )
    return bytes(pdf.output())


def _fonts() -> Path:
    """The folder of matplotlib's fonts; matplotlib itself is not loaded."""
    found = find_spec("matplotlib")
    assert found is not None and found.origin is not None  # a dependency of the package
    return Path(found.origin).parent / "mpl-data" / "fonts" / "ttf"


def _as_fpdf_likes_it(page: str) -> str:
    """HTML without what fpdf2 does not lay out: empty column heads, and code inside of bold text or
    of tables.
    """
    page = re.sub(r"(<t[hd](?: [^>]*)?>)(.*?)(</t[hd]>)", _plain_cell, page, flags=re.DOTALL)
    page = re.sub(r"<strong>(.*?)</strong>", _bold_without_code, page, flags=re.DOTALL)
    page = page.replace("<pre><code>", "<pre>").replace("</code></pre>", "</pre>")
    return page.replace("<table>", '<table border="0" width="100%">')


def _plain_cell(found: re.Match) -> str:
    start, inside, end = found.groups()
    words = html.escape(html.unescape(re.sub(r"<[^>]+>", "", inside)))
    return f"{start}{words or '&nbsp;'}{end}"


def _bold_without_code(found: re.Match) -> str:
    return f"<b>{re.sub(r'</?code>', '', found.group(1))}</b>"

"""The comparison of methods that edit given images: from measurements to a page."""

import json
import math

import pytest

from imagen_mini.evaluation.edit_benchmark import EditScore
from imagen_mini.evaluation.edit_page import (
    as_score,
    as_values,
    best_by_needs,
    kinds_table,
    methods_table,
    summarize,
    which_table,
)
from imagen_mini.evaluation.image_edits import (
    BY_PROMPTS,
    BY_USER,
    ROWS,
    ImageEditRow,
    ImageEditScore,
)

GOOD = EditScore(True, True, True, True, psnr=30.0, moved=1.0)
FAILED = EditScore(True, False, True, True, psnr=50.0, moved=math.inf)
NOT_ASKED = EditScore(True, True, True, True, asked=False)


def values(score, seconds=1.0, structure=0.2, outside=0.5, seam=0.1):
    return as_values(ImageEditScore(score, structure, outside, seam), seconds)


def test_a_score_survives_json():
    for score in (GOOD, FAILED, NOT_ASKED):
        back = as_score(json.loads(json.dumps(values(score), allow_nan=False)))
        assert back == score and (back.psnr, back.moved) == (score.psnr, score.moved)


def test_means_are_over_the_edits_that_count_and_seconds_over_all():
    row = summarize(
        [
            values(GOOD, 1.0, 0.2, 0.0, None),
            values(FAILED, 2.0, 0.4, 1.0, 0.3),
            values(NOT_ASKED, 6.0, 9.0, 9.0, 9.0),
        ]
    )
    assert (row["n"], row["asked"], row["success"], row["good"]) == (3, 2, 0.5, 0.5)
    assert row["structure"] == pytest.approx(0.3) and row["outside"] == pytest.approx(0.5)
    assert row["seam"] == pytest.approx(0.3) and row["seconds"] == pytest.approx(3.0)
    assert summarize([])["structure"] is None and summarize([])["seconds"] is None


def test_what_a_method_needs():
    def needs(*row):
        return ImageEditRow(*row).needs

    assert needs("own sample", "attention") == needs("seed alone") == needs("sdedit") == ()
    assert needs("null-text", "attention") == ("caption", "inversion", "optimisation")
    assert needs("pnp") == needs("ddim") == ("inversion",)
    assert needs("ddim", "attention") == ("caption", "inversion")
    assert needs("blend", "", (BY_USER,)) == ("mask",)
    assert needs("blend", "", (BY_PROMPTS,)) == ("caption",)
    assert needs("diffedit") == ("caption", "inversion")
    assert all(row.needs is not None for row in ROWS)


def test_the_best_method_is_the_best_of_those_that_need_no_more():
    rows = [
        ImageEditRow("seed alone"),
        ImageEditRow("sdedit"),
        ImageEditRow("pnp"),
        ImageEditRow("direct", "attention"),
        ImageEditRow("blend", "", (BY_USER,)),
    ]
    good = {"seed alone": 1.0, "sdedit": 0.5, "pnp": 0.25, "direct, attention": 0.5}
    good["blend, painted mask"] = 0.75
    summaries = {
        name: summarize([values(GOOD)] * int(4 * share) + [values(FAILED)] * int(4 - 4 * share))
        for name, share in good.items()
    }
    assert best_by_needs(rows, summaries) == {
        (): ["sdedit"],
        ("inversion",): ["sdedit"],
        ("mask",): ["blend, painted mask"],
        ("caption", "inversion"): ["sdedit", "direct, attention"],
    }
    table = which_table(rows, summaries)
    assert "| nothing | sdedit | 2 of 4 | 15% to 85% |" in table
    nothing_good = {name: summarize([values(FAILED)]) for name in good}
    assert "| nothing | none | 0 of 1 |" in which_table(rows, nothing_good)

    table = methods_table(rows, summaries, {"pnp": 2_500_000}).splitlines()
    assert len(table) == 2 + len(rows) and len({line.count("|") for line in table}) == 1
    (line,) = (line for line in table if line.startswith("| pnp"))
    assert (
        "1 of 4 | 4 of 4 | 1 of 4 | 45.0 dB | 0.200 | 50.0% | +0.100 | 1.0 | 2 MB |  |  | x |"
        in line
    )
    by_kind = kinds_table(rows, {"color swap": summaries, "shape swap": summaries})
    assert "| sdedit | 2 of 4 | 2 of 4 |" in by_kind

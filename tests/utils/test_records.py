"""Measurements on disk: nothing is lost, and nothing is measured twice."""

import pytest

from imagen_mini.utils.records import Records


def test_what_was_added_is_there_after_a_restart(tmp_path):
    path = tmp_path / "a.jsonl"
    first = Records(path)
    first.add({"kind": "a", "seed": 1}, score=0.1, note=None)
    first.add({"kind": "b", "seed": 1}, score=2)
    second = Records(path)
    assert len(second) == 2 and {"seed": 1, "kind": "a"} in second
    assert {"kind": "a", "seed": 2} not in second
    assert second[{"seed": 1, "kind": "a"}] == {"score": 0.1, "note": None}
    second.add({"kind": "b", "seed": 0}, score=3)
    assert [v["score"] for v in Records(path).of(kind="b")] == [2, 3]
    assert len(Records(path).of()) == 3


@pytest.mark.parametrize("lines", [1, 2])
def test_a_line_that_was_cut_off_is_measured_again(tmp_path, lines):
    path = tmp_path / "a.jsonl"
    records = Records(path)
    for i in range(lines):
        records.add({"seed": i}, score=i)
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    again = Records(path)
    assert len(again) == lines - 1 and {"seed": lines - 1} not in again
    again.add({"seed": lines - 1}, score=lines - 1)
    assert path.read_bytes() == whole


def test_another_file_is_named_and_left_alone(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"key": {}, "values": {}}\nprecious notes\nmore')
    with pytest.raises(ValueError, match="line 2: expected a record.*precious"):
        Records(path)
    assert path.read_text().endswith("precious notes\nmore")

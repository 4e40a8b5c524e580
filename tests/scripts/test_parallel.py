import json
import os
from functools import partial

import numpy as np
import pytest
import torch

from imagen_mini.evaluation.edit_benchmark import edit_tasks
from sample import evaluate
from sample.parallel import default_workers, spread


def tool(start):
    return {"start": start, "process": os.getpid(), "threads": torch.get_num_threads()}


def work(tool, job):
    if job == "bad":
        raise ValueError("a bad job")
    return np.full(2, tool["start"] + job), tool["process"], torch.get_num_threads()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_work_is_done_in_order_by_tools_prepared_once(workers):
    with spread(partial(tool, 10), workers) as each:
        done = list(each(work, range(7)))
        with pytest.raises(ValueError, match="a bad job"):
            list(each(work, [1, "bad", 2]))
        again = list(each(work, [5]))  # an error spoils nothing
    assert [x.tolist() for x, _, _ in done + again] == [[10 + i] * 2 for i in (*range(7), 5)]
    processes = {process for _, process, _ in done + again}
    assert (
        processes == {os.getpid()}
        if workers == 1
        else os.getpid() not in processes and len(processes) <= workers
    )
    assert workers == 1 or {threads for _, _, threads in done} == {1}


@pytest.mark.slow
def test_two_processes_write_the_report_of_one(tiny_pipe, tmp_path):
    tiny_pipe.save_pretrained(tmp_path / "tiny")
    for workers in ("1", "2"):
        evaluate.main(
            [
                "--pipeline",
                str(tmp_path / "tiny"),
                "--n",
                "3",
                "--batch",
                "2",
                "--edits",
                "1",
                "--steps",
                "2",
                "--categories",
                "one object",
                "texture",
                "--workers",
                workers,
                "--out",
                str(tmp_path / f"{workers}.json"),
            ]
        )
    one, two = (json.loads((tmp_path / f"{workers}.json").read_text()) for workers in ("1", "2"))
    for report in (one, two):
        (run,) = report["edits_runs"]
        assert report.pop("seconds") > 0 and run.pop("seconds") > 0
    rows = [f"{kind}: {method}" for kind in edit_tasks(1) for method in evaluate.ALL_METHODS]
    assert one == two and list(one["edits"]) == rows
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()


def test_workers_are_no_more_than_there_are_threads():
    assert 1 <= default_workers("cpu") <= torch.get_num_threads() and default_workers("cuda") == 1
    for wrong in ("--workers", "--batch"):
        with pytest.raises(SystemExit):
            evaluate.main([wrong, "0"])

"""Spreads independent work over processes of one thread each: networks as small as ours gain little
from a second thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from typing import TypeVar

import torch

Tool, Job, Done = TypeVar("Tool"), TypeVar("Job"), TypeVar("Done")
Spread = Callable[[Callable[[Tool, Job], Done], Iterable[Job]], Iterator[Done]]


def default_workers(device: str) -> int:
    """Return the default number of processes.

    On a CPU as many as torch uses threads, at most 8; on a GPU one, because processes share a GPU
    badly.
    """
    return min(8, torch.get_num_threads()) if torch.device(device).type == "cpu" else 1


@contextmanager
def spread(prepare: Callable[[], Tool], workers: int) -> Iterator[Spread]:
    """Provide `each(work, jobs)`, which yields work(prepare(), job) for every job, in their order.

    With one worker everything happens in this process. Otherwise each process calls `prepare` once.
    Then `prepare`, `work`, jobs and results must be picklable, and should hold arrays instead of
    tensors, because each tensor would keep a file open.

    Args:
        prepare: Makes what all jobs of a process share, for example a loaded pipeline.
        workers: Number of processes, at least 1.
    """
    if workers == 1:
        tool = prepare()
        yield lambda work, jobs: (work(tool, job) for job in jobs)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _start, (prepare,)) as pool:
        yield lambda work, jobs: pool.map(partial(_do, work), jobs)


def _start(prepare: Callable[[], Tool]) -> None:
    global _tool
    torch.set_num_threads(1)
    _tool = prepare()


def _do(work: Callable[[Tool, Job], Done], job: Job) -> Done:
    return work(_tool, job)

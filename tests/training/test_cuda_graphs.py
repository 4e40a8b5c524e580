"""The order of recorded steps and prefetched inputs, with streams that only note what happens. That
a recorded step is the same step is tested on a GPU, in test_gpu.py.
"""

from contextlib import nullcontext

import pytest

from imagen_mini.training import cuda_graphs


class Value:
    """In place of a tensor."""

    def record_stream(self, stream):
        pass


class Stream:
    def wait_stream(self, other):
        pass


@pytest.fixture
def events(monkeypatch):
    noted = []
    monkeypatch.setattr("torch.cuda.Stream", Stream)
    monkeypatch.setattr("torch.cuda.current_stream", Stream)
    monkeypatch.setattr("torch.cuda.stream", lambda stream: nullcontext())
    monkeypatch.setattr(cuda_graphs, "CudaGraphedStep", lambda step, parameters: step)
    return noted


def test_the_next_inputs_are_made_while_a_step_computes(events):
    def inputs():
        for i in range(3):
            events.append(f"made {i}")
            yield {"i": Value()}

    def step(of):
        events.append("replayed")
        return of

    fast, prefetched = cuda_graphs.graphed(step, inputs(), [])
    for of in prefetched:
        assert fast(of) is of
    assert events == ["made 0", *("replayed", "made 1", "replayed", "made 2", "replayed")]
    assert next(prefetched, "none") == "none"


def test_an_error_in_making_inputs_is_raised_once_they_are_needed(events):
    def inputs():
        yield {"i": Value()}
        raise ZeroDivisionError("broken data")

    fast, prefetched = cuda_graphs.graphed(lambda of: of, inputs(), [])
    with pytest.raises(ZeroDivisionError, match="broken data"):
        for of in prefetched:
            fast(of)

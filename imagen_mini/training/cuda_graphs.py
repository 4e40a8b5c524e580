"""Keeping a GPU busy: a step's kernels are recorded once and then replayed (a CUDA graph), while
the next step's inputs are made on another CUDA stream.

A small network is thousands of short kernels. A GPU can be done with each before Python has started
the next one. Replaying starts them all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

# forward and backward: from named tensors to losses, leaving gradients in the parameters
Step = Callable[[dict[str, Tensor]], Tensor]


def graphed(
    step: Step, inputs: Iterator[dict[str, Tensor]], parameters: list[nn.Parameter]
) -> tuple[Step, Iterator[dict[str, Tensor]]]:
    """The same step and the same inputs, faster: while the GPU replays a step, the inputs of the
    next one are made.

    Args:
        step: Forward and backward pass.
        inputs: The inputs of each step.
        parameters: Whose gradients the step computes.

    Returns:
        A step and an iterator of inputs, to be used as the plain ones are.
    """
    recorded, prefetched = CudaGraphedStep(step, parameters), StreamPrefetcher(inputs)

    def replay_and_prefetch(of: dict[str, Tensor]) -> Tensor:
        losses = recorded(of)
        prefetched.prefetch()
        return losses

    return replay_and_prefetch, prefetched


class CudaGraphedStep:
    """A step, recorded for every new set of shapes and replayed at each other call.

    Values are copied to where the recording has its inputs. Losses and gradients are written where
    it has its outputs, so each call overwrites those of the call before. The step must not read
    values (`if x > 0`), as this waits for the GPU. Gradients start from None, so it adds to
    nothing.

    Args:
        step: Forward and backward pass.
        parameters: Whose gradients the step computes.
    """

    def __init__(self, step: Step, parameters: list[nn.Parameter]):
        self.step, self.parameters, self.recorded = step, parameters, {}

    def __call__(self, inputs: dict[str, Tensor]) -> Tensor:
        shapes = tuple((name, x.shape, x.dtype) for name, x in inputs.items())
        if shapes not in self.recorded:
            self.recorded[shapes] = self._record(inputs)
        graph, fixed, losses, gradients = self.recorded[shapes]
        torch._foreach_copy_([*fixed.values()], [*inputs.values()])
        graph.replay()
        for p, gradient in zip(self.parameters, gradients):
            p.grad = gradient
        return losses

    def _record(
        self, inputs: dict[str, Tensor]
    ) -> tuple[torch.cuda.CUDAGraph, dict[str, Tensor], Tensor, list[Tensor | None]]:
        fixed = {name: x.clone() for name, x in inputs.items()}
        self._forget()
        # 1. the first calls choose kernels and allocate memory, which cannot be recorded
        side_stream = torch.cuda.Stream()
        side_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side_stream):
            for _ in range(3):
                self.step(fixed)
                self._forget()
        torch.cuda.current_stream().wait_stream(side_stream)
        # 2. record
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            losses = self.step(fixed)
        return graph, fixed, losses, [p.grad for p in self.parameters]

    def _forget(self) -> None:
        for p in self.parameters:
            p.grad = None


class StreamPrefetcher:
    """The same items, made on another CUDA stream, so that making one does not wait for the
    computation with the one before.

    Args:
        items: An iterator of named tensors.
    """

    def __init__(self, items: Iterator[dict[str, Tensor]]):
        self.items, self.stream = items, torch.cuda.Stream()
        self.ready: list[dict[str, Tensor] | None] = []  # at most one; None: there are no more

    def __iter__(self) -> StreamPrefetcher:
        return self

    def prefetch(self) -> None:
        """Make the next item now, if it is not there yet."""
        if not self.ready:
            with torch.cuda.stream(self.stream):
                self.ready.append(next(self.items, None))

    def __next__(self) -> dict[str, Tensor]:
        self.prefetch()
        item = self.ready.pop()
        if item is None:
            raise StopIteration
        torch.cuda.current_stream().wait_stream(self.stream)
        for x in item.values():
            x.record_stream(torch.cuda.current_stream())
        return item

"""Keeping a GPU busy: a step's kernels recorded once and then replayed (a CUDA graph), while the
next step's inputs are made on a stream of their own.

A small network is thousands of short kernels, and a GPU can be done with each before Python has
started the next. Replaying starts them all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

# forward and backward: from named tensors to losses, leaving gradients in the parameters
Step = Callable[[dict[str, Tensor]], Tensor]


class CudaGraphedStep:
    """`step`, recorded for every new set of shapes and replayed for each other call.

    Values are copied to where the recording has its inputs; losses and gradients are written where
    it has its outputs, so each call overwrites those of the one before. `step` must not look at
    values on the way (`if x > 0`), as this waits for the GPU. Gradients start from None: `step`
    adds to nothing.
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
        # the first calls choose kernels and allocate, which cannot be recorded
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                self.step(fixed)
                self._forget()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            losses = self.step(fixed)
        return graph, fixed, losses, [p.grad for p in self.parameters]

    def _forget(self) -> None:
        for p in self.parameters:
            p.grad = None


def prefetch_on_stream(items: Iterator[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """The same items, made on another CUDA stream, so that making one does not wait for what
    computes with the one before.
    """
    stream = torch.cuda.Stream()
    while True:
        with torch.cuda.stream(stream):
            item = next(items, None)
        if item is None:
            return
        torch.cuda.current_stream().wait_stream(stream)
        for x in item.values():
            x.record_stream(torch.cuda.current_stream())
        yield item

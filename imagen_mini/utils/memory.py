"""How much memory the tensors of a computation take, on any device."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class TensorMemory(TorchDispatchMode):
    """Counts the bytes of tensors that are made inside of it, and their peak.

        with TensorMemory() as memory:
            compute()
        memory.peak

    Storage counts from when it is made until nothing refers to it. Views take none. What was there
    before, such as weights, and what a kernel needs inside of itself do not count, so the number is
    that of the computation, and the same on every machine. It costs time: measure seconds without
    it.

    Attributes:
        now: Bytes that are in use.
        peak: The most that were in use at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: dict[int, weakref.finalize] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        before = {self._name(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        out = func(*args, **kwargs)
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and self._name(x) not in before:
                self._count(x.untyped_storage())
        return out

    @staticmethod
    def _name(x: Tensor) -> int:
        return x.untyped_storage()._cdata

    def _count(self, storage: torch.UntypedStorage) -> None:
        name, size = storage._cdata, storage.nbytes()
        if name in self._seen:
            return
        self.now += size
        self.peak = max(self.peak, self.now)
        self._seen[name] = weakref.finalize(storage, self._free, name, size)

    def _free(self, name: int, size: int) -> None:
        self.now -= size
        del self._seen[name]

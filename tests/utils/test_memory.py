"""The memory of tensors: bytes that can be counted by hand."""

import torch

from imagen_mini.utils.memory import TensorMemory


def test_the_peak_is_what_is_in_use_at_once():
    weights = torch.ones(1000)
    with TensorMemory() as memory:
        a = weights + 1  # 4000 bytes
        b = a * 2  # 8000 at once
        del a
        c = b + 1  # 8000 again
        del b
    assert (memory.peak, memory.now) == (8000, 4000)
    del c
    assert memory.now == 0


def test_views_and_what_is_changed_in_place_take_none():
    x = torch.ones(8, 8)
    with TensorMemory() as memory:
        x.view(64)[:3].add_(1)
        y = x.T.reshape(64)  # a copy
        y.mul_(2)
    assert memory.peak == 64 * 4


def test_what_the_backward_pass_needs_counts_until_it_is_done():
    x = torch.ones(1000, requires_grad=True)

    def peak(with_gradient):
        with TensorMemory() as memory, torch.set_grad_enabled(with_gradient):
            y = x
            for _ in range(5):
                y = y.sin()
            if with_gradient:
                y.sum().backward()
            del y
        x.grad = None
        return memory.peak, memory.now

    assert peak(False) == (8000, 0)
    kept, left = peak(True)
    assert kept >= 5 * 4000 and left == 0


def test_a_storage_that_takes_the_address_of_another_counts_again():
    with TensorMemory() as memory:
        for _ in range(50):
            torch.ones(1000) + 1
    assert memory.peak == 8000 and memory.now == 0

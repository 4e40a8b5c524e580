"""A device without float64, as Apple's GPUs are, emulated on the CPU."""

import torch
from torch import Tensor

FLOAT64 = {torch.float64, torch.double}


class NoFloat64(Tensor):
    """A tensor on such a device. Everything computed from it is on the device as well, until
    `.cpu()`. What would be float64 there is refused, as torch refuses it.
    """

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is Tensor.cpu:
            return args[0].as_subclass(Tensor)
        if function is Tensor.to and not isinstance(args[0], NoFloat64):
            # a tensor of the CPU that is moved here, and cast on the way
            (target,) = (a for a in (*args[1:], *kwargs.values()) if isinstance(a, NoFloat64))
            return args[0].to(target.dtype).as_subclass(NoFloat64)
        result = super().__torch_function__(function, types, args, kwargs)
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, NoFloat64) and value.dtype in FLOAT64:
                raise TypeError("Cannot convert a tensor to float64: the device has none")
        return result

"""Refuse early what cannot be computed: errors name the argument, what was found and what to do."""

import math
from numbers import Real
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor


def require_memory(needed: int, device: torch.device | str, what: str) -> None:
    """Raise MemoryError when `needed` bytes exceed what is free on the device, before allocating.

    The message says both numbers.
    """
    device = torch.device(device)
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = psutil.virtual_memory().available
    if needed > free:
        raise MemoryError(f"{what}: needs {needed:,} bytes, {free:,} are free on {device}; "
                          "use a smaller sample or network, or a machine with more memory")


def require_denormals() -> None:
    """Raise RuntimeError when this thread flushes denormal numbers to 0.

    Then weights and signs are not what they are.
    """
    least = torch.full((1,), 2.0**-1074, dtype=torch.float64)
    if (least * 2.0**60).item() == 0:
        raise RuntimeError("denormal numbers are flushed to 0 here, so numbers near 1e-308 lose "
                           "their sign and nothing can be certified; call "
                           "torch.set_flush_denormal(False) first")


def whole_number(name: str, value: object, low: int) -> int:
    """`value` as an int, if it is a whole number of at least `low`."""
    number: Any = value if isinstance(value, Real) else math.nan
    if not (number == number // 1 and number >= low):
        raise ValueError(f"{name}: found {value!r}; give a whole number, at least {low}")
    return int(number)


def one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raise ValueError when `value` is not among `allowed`."""
    if value not in allowed:
        listed = ", ".join(map(repr, allowed))
        raise ValueError(f"{name}: found {value!r}; use one of {listed}")


def finite(values: Tensor, what: str) -> None:
    """Raise ValueError, naming the first place, when `values` holds NaN or infinity."""
    values = values.detach().to(torch.float64)
    bad = ~torch.isfinite(values)
    if bad.any():
        place = bad.nonzero()[0].tolist()
        raise ValueError(f"{what} is {values[tuple(place)].item()} at {place} "
                         f"({int(bad.sum())} such entries); clean or rescale the values first")


def real_array(name: str, values: object) -> Tensor:
    """Numbers of any container as a float64 tensor, if float64 holds every one of them exactly."""
    if isinstance(values, Tensor):
        converted, exact = _from_tensor(name, values)
    else:
        converted, exact = _from_array(name, values)
    if not exact:
        raise ValueError(f"{name}: some values need more than the 53 bits of float64; "
                         "round them first")
    return converted


def _from_tensor(name: str, values: Tensor) -> tuple[Tensor, bool]:
    """The tensor in float64, and whether nothing was rounded."""
    if values.layout != torch.strided or values.is_complex():
        raise ValueError(f"{name}: found dtype {values.dtype}, layout {values.layout}; "
                         "give a dense tensor of real inputs")
    converted = values.detach().to(torch.float64)
    return converted, values.is_floating_point() or _below_2_to_the_53(converted)


def _from_array(name: str, values: object) -> tuple[Tensor, bool]:
    """What NumPy makes of the values, in float64, and whether nothing was rounded."""
    try:
        array = np.asarray(values)
    except ValueError:  # nested lists of different lengths
        array = np.asarray(None)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name}: found {type(values).__name__} of dtype {array.dtype}; "
                         "give an array of real numbers")
    rounded = array.astype(np.float64)
    converted = torch.from_numpy(rounded)
    if array.dtype.kind == "f":  # long doubles can hold more; NaN is another check's matter
        return converted, bool(((rounded == array) | ~np.isfinite(rounded)).all())
    return converted, _below_2_to_the_53(converted)


def _below_2_to_the_53(converted: Tensor) -> bool:
    """Whether integers were all small enough for float64 to hold each of them."""
    return not bool((converted.abs() >= 2.0**53).any())

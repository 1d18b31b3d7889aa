"""Refuse early what cannot be computed: errors name the argument, what was found and what to do."""

from numbers import Real

import numpy as np
import psutil
import torch
from torch import Tensor


def require_memory(needed: int, device: torch.device | str, what: str) -> None:
    """Raise MemoryError with both numbers when `needed` bytes exceed what is free on the device, before allocating."""
    device = torch.device(device)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if needed > free:
        raise MemoryError(f"{what}: needs {needed:,} bytes, {free:,} are free on {device}; "
                          "use a smaller sample or network, or a machine with more memory")


def require_denormals() -> None:
    """Raise RuntimeError when this thread flushes denormal numbers to 0: then weights and signs are not what they are."""
    if (torch.full((1,), 2.0**-1074, dtype=torch.float64) * 2.0**60).item() == 0:
        raise RuntimeError("denormal numbers are flushed to 0 here, so numbers near 1e-308 lose their sign and nothing can be "
                           "certified; call torch.set_flush_denormal(False) first")


def whole_number(name: str, value, low: int) -> int:
    """`value` as an int, if it is a whole number of at least `low`."""
    if not (isinstance(value, Real) and value == value // 1 and value >= low):
        raise ValueError(f"{name}: found {value!r}; give a whole number, at least {low}")
    return int(value)


def one_of(name: str, value, allowed: tuple) -> None:
    """Raise ValueError when `value` is not among `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name}: found {value!r}; use one of {', '.join(map(repr, allowed))}")


def finite(values: Tensor, what: str) -> None:
    """Raise ValueError, naming the first place, when `values` holds NaN or infinity."""
    values = values.detach().to(torch.float64)
    bad = ~torch.isfinite(values)
    if bad.any():
        place = bad.nonzero()[0].tolist()
        raise ValueError(f"{what} is {values[tuple(place)].item()} at {place} ({int(bad.sum())} such entries); "
                         "clean or rescale the values first")


def real_array(name: str, values) -> Tensor:
    """Numbers of any container as a float64 tensor, if float64 holds every one of them exactly."""
    if not isinstance(values, Tensor):
        try:
            array = np.asarray(values)
        except ValueError:  # nested lists of different lengths
            array = np.asarray(None)
        if array.dtype.kind not in "fiub":
            raise ValueError(f"{name}: found {type(values).__name__} of dtype {array.dtype}; give an array of real numbers")
        converted = array.astype(np.float64)
        exact = torch.from_numpy(np.array((converted == array) | ~np.isfinite(converted)))
        converted, floating = torch.from_numpy(converted), array.dtype.kind == "f"
    elif values.layout != torch.strided or values.is_complex():
        raise ValueError(f"{name}: found dtype {values.dtype}, layout {values.layout}; give a dense tensor of real inputs")
    else:
        converted = values.detach().to(torch.float64)
        exact, floating = torch.tensor(True), values.is_floating_point()
    if not exact.all() or (not floating and (converted.abs() >= 2.0**53).any()):
        raise ValueError(f"{name}: some values need more than the 53 bits of float64; round them first")
    return converted

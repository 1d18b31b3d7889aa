"""From any container of numbers to a tensor that holds exactly these, or to a message that says why
not.

Hidden numbers, as under the mask of a masked array, are never used; nor is anything rounded.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from fdimlib.validation import has_float64, plain_type, require_memory, type_name


def real_array(name: str, values: object) -> Tensor:
    """Numbers of any container as a float64 tensor, if float64 holds every one of them exactly."""
    return to_float64(name, opened(name, values))


def opened(name: str, values: object) -> Tensor | np.ndarray:
    """The real numbers in a container, nothing converted or copied where it is an array."""
    if isinstance(values, Tensor):
        return _dense(name, values)
    for part in _parts(values):
        if isinstance(part, np.ma.MaskedArray):
            raise ValueError(f"{name}: found a masked array; its masked entries are no numbers: "
                             "leave them out (.compressed(), or whole rows) or fill them "
                             "(.filled(value))")
    if isinstance(values, list | tuple):
        values = _without_tensors(name, values)
    try:
        array = np.asarray(values)
    except ValueError:  # nested lists of different lengths
        array = np.asarray(None)
    except Exception as problem:  # whatever an object's __array__ raises
        raise ValueError(f"{name}: found {type_name(values)}, of which NumPy makes no array "
                         f"({problem}); give an array of real numbers") from problem
    if array.dtype.kind not in "fiub":
        advice = "give an array of real numbers"
        if hasattr(values, "to_numpy"):  # pandas, whose nullable columns NumPy takes as objects
            advice += f": {name}.to_numpy(float), where every column holds numbers"
        raise ValueError(f"{name}: found {type_name(values)} of dtype {array.dtype}; {advice}")
    return array


def _dense(name: str, values: Tensor) -> Tensor:
    """An ordinary tensor with values of its own."""
    if values.device.type == "meta":
        raise ValueError(f"{name}: found a tensor on the meta device, which has a shape and no "
                         "values; give one on the CPU, say")
    if values.is_nested:
        raise ValueError(f"{name}: found a nested tensor; stack its parts, which must be equally "
                         f"long: torch.stack({name}.unbind())")
    if values.is_quantized:
        raise ValueError(f"{name}: found a quantised tensor of dtype {values.dtype}; give the "
                         f"numbers that it stands for: {name}.dequantize()")
    if values.layout != torch.strided or values.is_complex():
        raise ValueError(f"{name}: found dtype {values.dtype}, layout {values.layout}; "
                         "give a dense tensor of real inputs")
    if not plain_type(values):
        raise ValueError(f"{name}: found {type_name(values)}, which is more than its numbers (a "
                         "mask, say); give an ordinary torch.Tensor")
    return values.detach().as_subclass(Tensor)


def _parts(values: object) -> Iterator[object]:
    """A container, and the containers inside it, as far as they are lists and tuples."""
    yield values
    if isinstance(values, list | tuple):
        for value in values:
            if not isinstance(value, float | int):
                yield from _parts(value)


def _without_tensors(name: str, values: object) -> object:
    """Nested lists with NumPy arrays for tensors: NumPy reads none that requires a gradient."""
    if isinstance(values, list | tuple):
        return [_without_tensors(name, value) for value in values]
    if isinstance(values, Tensor):
        dense = _dense(name, values).cpu()
        require_memory(8 * dense.numel(), "cpu", f"{name}: the numbers in float64")
        return (dense.double() if dense.is_floating_point() else dense).numpy()
    return values


def to_float64(name: str, values: Tensor | np.ndarray) -> Tensor:
    """What `opened` gives, in float64.

    Raises:
        ValueError: some values do not fit in float64.
        MemoryError: all of them do not fit in memory: a tensor can be larger than it.
    """
    require_memory(17 * math.prod(values.shape), "cpu", f"{name}: the numbers in float64")
    if isinstance(values, Tensor):
        converted = float64(values)
        exact = values.is_floating_point() or _below_2_to_the_53(converted)
    else:
        converted, exact = _from_array(values)
    if not exact:
        raise ValueError(f"{name}: some values need more than the 53 bits of float64; "
                         "round them first")
    return converted


def float64(values: Tensor) -> Tensor:
    """A tensor in float64: where it is, or on the CPU where its device has no float64."""
    values = values.detach()
    return (values if has_float64(values.device) else values.cpu()).to(torch.float64)


def _from_array(array: np.ndarray) -> tuple[Tensor, bool]:
    """The array in float64, and whether nothing was rounded."""
    with np.errstate(over="ignore"):
        rounded = array.astype(np.float64)
    converted = torch.from_numpy(rounded)
    if array.dtype.kind == "f":  # long doubles can hold more; NaN is another check's matter
        same = (rounded == array) | ~np.isfinite(array)
        return converted, array.dtype.itemsize <= 8 or bool(same.all())
    return converted, _below_2_to_the_53(converted)


def _below_2_to_the_53(converted: Tensor) -> bool:
    """Whether integers were all small enough for float64 to hold each of them."""
    return not bool((converted.abs() >= 2.0**53).any())


def finite(values: Tensor, what: str) -> None:
    """Raise ValueError, naming the first place, when `values` holds NaN or infinity."""
    values = float64(values)
    bad = ~torch.isfinite(values)
    if bad.any():
        place = bad.nonzero()[0].tolist()
        raise ValueError(f"{what} is {values[tuple(place)].item()} at {place} "
                         f"({int(bad.sum())} such entries); clean or rescale the values first")


def rounded_to(values: Tensor, like: Tensor, what: str) -> Tensor:
    """Finite values in the dtype of `like` and on its device, if they do not overflow there."""
    converted = values.to(like.dtype).to(like.device)
    finite(converted, f"{what}, in the network's {like.dtype},")
    return converted


def of_integers(array: Tensor | np.ndarray) -> bool:
    """Whether the type of the numbers is one of integers, whatever their values."""
    if isinstance(array, Tensor):
        return not array.is_floating_point()
    return array.dtype.kind != "f"


def integers(name: str, values: object, length: int, highest: int) -> Tensor:
    """`length` integers from 0 to `highest`, of any integer type, as int64, (length,)."""
    array = opened(name, values)
    shape, dtype = tuple(array.shape), array.dtype
    least, most = 0.0, 0.0
    if math.prod(shape):
        numbers = to_float64(name, array)
        least, most = numbers.min().item(), numbers.max().item()
    if shape != (length,) or not of_integers(array) or least < 0 or most > highest:
        extent = f", values {least:g} to {most:g}" if math.prod(shape) else ""
        raise ValueError(f"{name}: found shape {shape}, dtype {dtype}{extent}; "
                         f"give {length} integer labels from 0 to {highest}")
    tensor = array if isinstance(array, Tensor) else torch.from_numpy(array.astype(np.int64))
    return tensor.long()

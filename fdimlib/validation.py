"""Each argument is turned into what is needed, or refused: numbers, options, devices, memory.

A message begins with the argument's name and says what was found and what to do. Containers of
numbers are in `arrays`.
"""

import math
import reprlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import cache, wraps
from itertools import islice
from numbers import Real
from typing import Any, ParamSpec, TypeVar

import numpy as np
import psutil
import torch
from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")

LARGEST_SEED = 2**64 - 1  # what torch's generators take
MOST_ITEMS = 100_000  # layers, epochs: nothing that is listed has as many
NOTATION = reprlib.Repr()
NOTATION.maxstring = NOTATION.maxother = 60


def found(value: object) -> str:
    """How a message shows a value: in one line, a long one shortened."""
    return f"found {' '.join(NOTATION.repr(value).split())}"


def type_name(value: object) -> str:
    """The type of a value with its module, which tells apart classes of the same name."""
    kind = type(value)
    known = kind.__module__ in ("builtins", "numpy", "torch")
    return kind.__qualname__ if known else f"{kind.__module__}.{kind.__qualname__}"


def untouched(function: Callable[P, T]) -> Callable[P, T]:
    """The function, out of reach of its caller's settings: a default device, autocast.

    With the one, what is made without a device is not on the CPU, where all random choices are
    drawn; the other computes in fewer bits than the network has.
    """
    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with ExitStack() as settings:
            if torch.get_default_device().type != "cpu":
                settings.enter_context(torch.device("cpu"))
            for kind in ("cpu", "cuda"):
                if torch.is_autocast_enabled(kind):
                    settings.enter_context(torch.autocast(kind, enabled=False))
            return function(*args, **kwargs)

    return call


def require_memory(needed: int, device: torch.device | str, what: str) -> None:
    """Raise MemoryError when `needed` bytes exceed what is free on the device, before allocating.

    The message says both numbers; `what` begins with the name of the argument that is too large.
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
    least = torch.full((1,), 2.0**-1074, dtype=torch.float64, device="cpu")
    if (least * 2.0**60).item() == 0:
        raise RuntimeError("denormal numbers are flushed to 0 here, so numbers near 1e-308 lose "
                           "their sign and nothing can be certified; call "
                           "torch.set_flush_denormal(False) first")


def real_number(name: str, value: object, low: float = -math.inf,
                high: float = math.inf, *, above: float = -math.inf) -> float:
    """A finite number from `low` to `high`, more than `above`, as a float.

    Python's, NumPy's and a tensor's numbers will do; truth values and strings are none.
    """
    number: Any = _scalar(value)
    if not (math.isfinite(number) and low <= number <= high and number > above):
        limits = [f"more than {above}"] if above > -math.inf else []
        limits += [f"at least {low}"] if low > -math.inf else []
        limits += [f"at most {high}"] if high < math.inf else []
        raise ValueError(f"{name}: {found(value)}; give a finite number"
                         + (", " + " and ".join(limits) if limits else ""))
    return float(number)


def whole_number(name: str, value: object, low: int, high: int | None = None) -> int:
    """`value` as an int, if it is a whole number from `low` to `high`; 2.0 is one."""
    number: Any = _scalar(value)
    if not (number == number // 1 and number >= low) or (high is not None and number > high):
        limit = "" if high is None else f" and at most {high}"
        raise ValueError(f"{name}: {found(value)}; give a whole number, at least {low}{limit}")
    return int(number)


def seed_number(name: str, value: object) -> int:
    """A seed, which every random generator takes."""
    return whole_number(name, value, 0, LARGEST_SEED)


def _scalar(value: object) -> Real:
    """The one number in `value`; NaN, which passes no comparison, when it is none."""
    if isinstance(value, Tensor | np.ndarray) and plain_type(value) and not value.ndim:
        value = value.item()
    number = isinstance(value, Real) and not isinstance(value, bool)
    return value if number else math.nan  # type: ignore[return-value]


def plain_type(value: Tensor | np.ndarray) -> bool:
    """Whether an array or tensor is no more than its numbers, one after the other, and here."""
    if isinstance(value, Tensor):
        ours = type(value).__torch_dispatch__ is Tensor.__torch_dispatch__
        dense = value.layout == torch.strided and not (value.is_quantized or value.is_nested)
        return ours and dense and value.device.type != "meta"
    return not isinstance(value, np.ma.MaskedArray)


def flag(name: str, value: object) -> bool:
    """True or False, as Python or NumPy has them."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: {found(value)}; give True or False")
    return bool(value)


def one_of(name: str, value: object, allowed: tuple[str | None, ...]) -> None:
    """Raise ValueError when `value` is not among `allowed`."""
    if not (value is None or isinstance(value, str)) or value not in allowed:
        listed = ", ".join(map(repr, allowed))
        raise ValueError(f"{name}: {found(value)}; use one of {listed}")


def items(name: str, value: object, example: str) -> list[Any]:
    """What a sequence holds; a string, a mapping or a set is none."""
    array = isinstance(value, Tensor | np.ndarray) and plain_type(value) and value.ndim
    sequence = isinstance(value, Sequence | Iterator) and not isinstance(value, str | bytes)
    if not array and not sequence:
        raise TypeError(f"{name}: {found(value)}; give a sequence, e.g. {example}")
    if array:
        value = value[: MOST_ITEMS + 1]  # type: ignore[index]
    listed = list(islice(value, MOST_ITEMS + 1))  # type: ignore[call-overload]
    if len(listed) > MOST_ITEMS:
        raise ValueError(f"{name}: found more than {MOST_ITEMS:,} items; give a sequence, e.g. "
                         f"{example}")
    return listed


@cache
def has_float64(device: torch.device) -> bool:
    """Whether there is such a device here, and whether it computes in float64."""
    try:
        one = torch.ones(1, dtype=torch.float64, device=device)
        return (one + one).item() == 2
    except Exception:  # each backend has its own way to say no
        return False


def device_of(name: str, value: object, home: torch.device) -> torch.device:
    """The device to compute on; None: `home`, or the CPU where `home` has no float64.

    Raises:
        TypeError, ValueError: no device, none that is here, or none that has float64.
    """
    if value is None:
        return home if has_float64(home) else torch.device("cpu")
    if not isinstance(value, str | torch.device):
        raise TypeError(f"{name}: {found(value)}; give 'cpu', 'cuda' or 'cuda:0', say")
    try:
        device = torch.device(value)
    except RuntimeError:
        raise ValueError(f"{name}: {found(value)}, which names no device of torch; "
                         "use 'cpu', 'cuda' or 'cuda:0', say") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count() or "no"
        raise ValueError(f"{name}: found {str(device)!r}, but torch sees {count} CUDA "
                         f"{'devices' if count != 1 else 'device'} here; use 'cpu'"
                         + (" or 'cuda:0'" if count != "no" else ""))
    if not has_float64(device):
        raise ValueError(f"{name}: found {str(device)!r}, which is not here or has no float64; "
                         "use 'cpu'")
    return device


def pair(name: str, value: object, example: str) -> tuple[int, int]:
    """Two whole numbers, at least 0."""
    listed = items(name, value, example)
    if len(listed) != 2:
        raise ValueError(f"{name}: {found(value)}; give two numbers, e.g. {example}")
    first, second = (whole_number(name, number, 0) for number in listed)
    return first, second

"""Operators of torch on numbers at one place, as operators of ours; and what joins tensors."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fdimlib.building import Builder
from fdimlib.layouts import Value
from fdimlib.supported import Softened, Unsupported


class Entries:
    """Arithmetic, functions of one number, maxima of two, several tensors, and the softmax."""

    def __init__(self, build: Builder):
        self.build = build

    def value(self, x: Value | Tensor | float) -> Value:
        return x if isinstance(x, Value) else self.build.constant(x)

    # Arithmetic

    def add(self, x: Any, y: Any, alpha: float = 1) -> Value:
        return self.build.add_values(self.value(x), self.build.scale(self.value(y), alpha))

    def sub(self, x: Any, y: Any, alpha: float = 1) -> Value:
        return self.add(x, y, -alpha)

    def rsub(self, x: Any, y: Any, alpha: float = 1) -> Value:
        return self.sub(y, x, alpha)

    def neg(self, x: Value) -> Value:
        return self.build.negative(x)

    def mul(self, x: Any, y: Any) -> Value:
        return self.build.multiply(self.value(x), self.value(y))

    def div(self, x: Any, y: Any, rounding_mode: str | None = None) -> Value:
        if rounding_mode is not None or isinstance(y, Value):
            raise Unsupported("divides by numbers that vary, or rounds: not piecewise polynomial")
        return self.build.divide(self.value(x), torch.as_tensor(y))

    def pow(self, x: Any, exponent: Any) -> Value:
        if not isinstance(exponent, int | float) or exponent not in (1, 2, 3, 4):
            raise Unsupported(f"takes the power {exponent}; supported are 1 to 4")
        result = x
        for _ in range(int(exponent) - 1):
            result = self.build.multiply(result, x)
        return result

    def square(self, x: Value) -> Value:
        return self.build.multiply(x, x)

    def cast(self, x: Value, *args: Any, **kwargs: Any) -> Value:
        """Another precision is the same number, in exact arithmetic."""
        dtypes = [given for given in (*args, *kwargs.values()) if isinstance(given, torch.dtype)]
        if any(not dtype.is_floating_point for dtype in dtypes):
            raise Unsupported(f"rounds to {dtypes[0]}")
        return x

    def dropout(self, x: Value, p: float, train: bool) -> Value:
        if train and p:
            raise Unsupported("is in training mode, and random; call model.eval()")
        return x

    def maximum(self, x: Any, y: Any) -> Value:
        """y + relu(x − y), with half of either derivative at a tie."""
        x, y = self.value(x), self.value(y)
        above = self.build.switch(self.build.subtract(x, y), [0.0], [(0, 0.0), (1, 0.0)], [0.5])
        return self.build.add_values(y, above)

    def minimum(self, x: Any, y: Any) -> Value:
        x, y = self.value(x), self.value(y)
        below = self.build.switch(self.build.subtract(x, y), [0.0], [(1, 0.0), (0, 0.0)], [0.5])
        return self.build.add_values(y, below)

    # Functions of one number

    def relu(self, x: Value) -> Value:
        return self.build.relu(x)

    def leaky_relu(self, x: Value, negative_slope: float = 0.01) -> Value:
        return self.prelu(x, negative_slope)

    def rrelu(self, x: Value, lower: float = 1 / 8, upper: float = 1 / 3,
              training: bool = False) -> Value:
        if training:
            raise Unsupported("is in training mode, and random; call model.eval()")
        return self.prelu(x, (lower + upper) / 2)

    def prelu(self, x: Value, slope: Any) -> Value:
        """The positive part, and the slope times the negative part."""
        slope = self.value(slope)
        if slope.places.dim() and x.places.dim() > 1:
            slope = slope.moved(slope.places.reshape(-1, *[1] * (x.places.dim() - 2)))
        positive = self.build.relu(x)
        negative = self.build.subtract(x, positive)
        return self.build.add_values(positive, self.build.multiply(negative, slope))

    def abs(self, x: Value) -> Value:
        return self.build.switch(x, [0.0], [(-1, 0.0), (1, 0.0)], [0])

    def clamp(self, x: Value, min: Any = None, max: Any = None) -> Value:
        """At a limit, torch's derivative is 1."""
        return self._between(x, min, max, 1)

    def clamp_min(self, x: Value, min: Any) -> Value:
        return self._between(x, min, None, 1)

    def clamp_max(self, x: Value, max: Any) -> Value:
        return self._between(x, None, max, 1)

    def hardtanh(self, x: Value, min_val: float = -1, max_val: float = 1) -> Value:
        """At a limit, torch's derivative is 0."""
        return self._between(x, min_val, max_val, 0)

    def _between(self, x: Value, low: Any, high: Any, at: float) -> Value:
        if isinstance(low, Value | Tensor) or isinstance(high, Value | Tensor):
            raise Unsupported("has limits that are tensors; use torch.maximum and torch.minimum")
        if low is not None and high is not None and not low < high:
            raise Unsupported(f"has limits {low} and {high} with nothing between")
        limits = [float(limit) for limit in (low, high) if limit is not None]
        pieces = [(1, 0.0)]
        if low is not None:
            pieces.insert(0, (0, float(low)))
        if high is not None:
            pieces.append((0, float(high)))
        if not all(math.isfinite(limit) for limit in limits):
            raise Unsupported("has an infinite limit")
        return self.build.switch(x, limits, pieces, [at] * len(limits))

    def relu6(self, x: Value) -> Value:
        return self.hardtanh(x, 0, 6)

    def hardsigmoid(self, x: Value) -> Value:
        return self.div(self.hardtanh(self.add(x, 3.0), 0, 6), 6.0)

    def hardswish(self, x: Value) -> Value:
        return self.mul(x, self.hardsigmoid(x))

    # Several tensors

    def cat(self, tensors: Sequence[Any], dim: int = 0) -> Value:
        return self.build.join([self.value(t) for t in tensors], dim)

    def stack(self, tensors: Sequence[Any], dim: int = 0) -> Value:
        values = [self.value(t) for t in tensors]
        return self.build.join([v.moved(v.places.unsqueeze(dim)) for v in values], dim)

    # Heads

    def softmax(self, x: Value, dim: int, dtype: Any = None) -> Value:
        """Softmax and log-softmax: the derivatives of both have the kernel (1, …, 1)."""
        table = x.places.movedim(dim, -1)
        table = table.reshape(-1, table.shape[-1])
        self.build.rows(x, table)  # samples do not mix
        return Softened(x.node, x.size, x.places, x.batched, object(), table)

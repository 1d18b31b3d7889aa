"""The operators of torch that can be read, each made out of a few operators of ours.

Here: those on vectors, sequences and maps; `lowering_entries` has those that work entry by entry.
What only moves numbers is done to their places by torch itself (`supported.MOVES`). Anything else
is refused, with its name and place.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fdimlib.building import adaptive_windows, patch_windows
from fdimlib.layouts import Value
from fdimlib.lowering_entries import Entries
from fdimlib.supported import Unsupported


class Lowering(Entries):
    """Makes the operators of one network."""

    # Affine

    def linear(self, x: Any, weight: Any, bias: Any = None) -> Value:
        x, weight = self.value(x), self.value(weight)
        if weight.batched or weight.places.dim() != 2:
            raise Unsupported("multiplies numbers that both depend on the sample")
        table = x.places.reshape(-1, x.places.shape[-1])
        bias = None if bias is None else self.value(bias)
        result = self.build.affine(x, table, weight, weight.places, bias)
        return result.moved(result.places.reshape(*x.places.shape[:-1], -1))

    def matmul(self, x: Any, y: Any) -> Value:
        x, y = self.value(x), self.value(y)
        if not y.batched and y.places.dim() == 2 and x.places.dim() > 1:
            return self.linear(x, y.moved(y.places.T))
        if not x.batched and x.places.dim() == 2 and y.places.dim() > 1:
            product = self.linear(y.moved(y.places.mT), x)
            return product.moved(product.places.mT)
        raise Unsupported("multiplies numbers that both depend on the sample, or vectors")

    def addmm(self, bias: Any, x: Any, y: Any, beta: float = 1, alpha: float = 1) -> Value:
        if beta != 1 or alpha != 1:
            raise Unsupported("with factors is not supported")
        return self.add(self.matmul(x, y), bias)

    def convolution(self, x: Any, weight: Any, bias: Any = None, stride: Any = 1,
                    padding: Any = 0, dilation: Any = 1, groups: int = 1) -> Value:
        x, weight = self.value(x), self.value(weight)
        if weight.batched or x.places.dim() != 4:
            raise Unsupported("needs an input of shape (n, channels, …) and weights of its own")
        places, outputs = x.places, len(weight.places)
        kernel, stride, dilation = list(weight.places.shape[2:]), _two(stride), _two(dilation)
        shape = list(places.shape[2:])
        reach = [step * (size - 1) for step, size in zip(dilation, kernel)]
        if padding == "valid":
            padding = 0
        if padding == "same":
            before = [length // 2 for length in reach]
            positions = shape
        else:
            before = _two(padding)
            positions = [(length + 2 * pad - far - 1) // step + 1 for length, pad, far, step
                         in zip(shape, before, reach, stride)]
        windows = patch_windows(shape, kernel, stride, before, dilation, positions)
        patches = self._gathered(x, windows)  # (B, C, T, k)
        table = patches.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
        weights = weight.places.reshape(outputs, -1)
        bias = None if bias is None else self.value(bias)
        result = self.build.affine(x, table, weight, weights, bias, groups)
        maps = result.places.reshape(len(places), -1, outputs).mT
        return result.moved(maps.reshape(len(places), outputs, *positions))

    def convolution1d(self, x: Any, weight: Any, bias: Any = None, stride: Any = 1,
                      padding: Any = 0, dilation: Any = 1, groups: int = 1) -> Value:
        def two(numbers: Any, other: int) -> Any:
            return numbers if isinstance(numbers, str) else [other, _two(numbers)[0]]

        x, weight = self.value(x), self.value(weight)
        result = self.convolution(
            x.moved(x.places.unsqueeze(-2)), weight.moved(weight.places.unsqueeze(-2)), bias,
            two(stride, 1), two(padding, 0), two(dilation, 1), groups)
        return result.moved(result.places.squeeze(-2))

    def _gathered(self, x: Value, windows: Tensor) -> Tensor:
        """Places of (B, C, H, W) as (B, C, T, k) by windows (T, k) of pixels."""
        pixels = x.places.flatten(2)
        taken = pixels[:, :, windows.clamp_min(0)]
        return x.padded(torch.where(windows < 0, -1, taken))

    def batch_norm(self, x: Value, weight: Any, bias: Any, mean: Any, var: Any, training: bool,
                   momentum: float, eps: float, cudnn: bool = False) -> Value:
        if training or mean is None:
            raise Unsupported("normalises by the sample's own statistics, which mixes samples; "
                              "call model.eval(), with running statistics")
        if isinstance(mean, Value) or isinstance(var, Value):
            raise Unsupported("has running statistics that vary")
        shape = (-1, *[1] * (x.places.dim() - 2))
        x = self.sub(x, mean.double().reshape(shape))
        x = self.mul(x, (1 / (var.double() + eps).sqrt()).reshape(shape))
        if weight is not None:
            weight = self.value(weight)
            x = self.mul(x, weight.moved(weight.places.reshape(shape)))
        if bias is not None:
            bias = self.value(bias)
            x = self.add(x, bias.moved(bias.places.reshape(shape)))
        return x

    def pad(self, x: Value, pad: Sequence[int], mode: str = "constant",
            value: float | None = None) -> Value:
        places = x.places.double()
        if mode != "constant":
            return x.moved(functional.pad(places, list(pad), mode), object())
        padded = x.moved(x.padded(functional.pad(places, list(pad), value=-1)), object())
        if not value:
            return padded
        around = functional.pad(torch.zeros(x.places.shape[1:]).double(), list(pad), value=value)
        return self.add(padded, around)

    # Sums and means

    def sum(self, x: Value, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Value:
        axes = range(x.places.dim()) if dim is None or dim == [] else _listed(dim)
        axes = sorted(axis % x.places.dim() for axis in axes)
        others = [axis for axis in range(x.places.dim()) if axis not in axes]
        table = x.places.permute(*others, *axes).reshape(
            math.prod(x.places.shape[axis] for axis in others), -1)
        result = self.build.windows(x, table)
        shape = [1 if axis in axes else size for axis, size in enumerate(x.places.shape)
                 if keepdim or axis not in axes]
        return result.moved(result.places.reshape(shape))

    def mean(self, x: Value, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Value:
        total = self.sum(x, dim, keepdim)
        count = x.places.numel() // max(total.places.numel(), 1)
        return self.build.divide(total, torch.tensor(float(count)))

    def _pooled(self, x: Value, windows: Tensor, shape: Sequence[int],
                pool: Callable[[Value, Tensor], Value]) -> Value:
        if x.places.dim() != 4:
            raise Unsupported("needs an input of shape (n, channels, …)")
        table = self._gathered(x, windows).flatten(0, 2)
        result = pool(x, table)
        return result.moved(result.places.reshape(*x.places.shape[:2], *shape))

    def avg_pool2d(self, x: Value, kernel_size: Any, stride: Any = (), padding: Any = 0,
                   ceil_mode: bool = False, count_include_pad: bool = True,
                   divisor_override: int | None = None) -> Value:
        ones = torch.ones(1, 1, *x.places.shape[2:], dtype=torch.float64)
        shares = functional.avg_pool2d(ones, kernel_size, stride or None, padding, ceil_mode,
                                       count_include_pad, divisor_override)
        windows = patch_windows(x.places.shape[2:], _two(kernel_size), _two(stride or kernel_size),
                                _two(padding), [1, 1], shares.shape[2:])
        divisors = ((windows >= 0).sum(dim=1) / shares.flatten()).round()
        result = self._pooled(x, windows, shares.shape[2:], self.build.windows)
        return self.build.divide(result, divisors.reshape(shares.shape[2:]))

    def adaptive_avg_pool2d(self, x: Value, output_size: Any) -> Value:
        shape = _sized(output_size, x)
        windows = adaptive_windows(x.places.shape[2:], shape)
        result = self._pooled(x, windows, shape, self.build.windows)
        return self.build.divide(result, (windows >= 0).sum(dim=1).reshape(shape))

    # Maxima

    def max_pool2d(self, x: Value, kernel_size: Any, stride: Any = (), padding: Any = 0,
                   dilation: Any = 1, ceil_mode: bool = False) -> Value:
        dummy = torch.zeros(1, 1, *x.places.shape[2:])
        shape = functional.max_pool2d(dummy, kernel_size, stride or None, padding, dilation,
                                      ceil_mode).shape[2:]
        windows = patch_windows(x.places.shape[2:], _two(kernel_size), _two(stride or kernel_size),
                                _two(padding), _two(dilation), shape)
        return self._largest(x, windows, shape)

    def adaptive_max_pool2d(self, x: Value, output_size: Any) -> tuple[Value]:
        shape = _sized(output_size, x)
        return (self._largest(x, adaptive_windows(x.places.shape[2:], shape), shape),)

    def _largest(self, x: Value, windows: Tensor, shape: Sequence[int]) -> Value:
        absent = (windows < 0).repeat(math.prod(x.places.shape[:2]), 1)
        return self._pooled(x, windows, shape,
                            lambda value, table: self.build.largest(value, table, absent))

    def max(self, x: Value, dim: Any = None, keepdim: bool = False) -> tuple[Value]:
        if isinstance(dim, Value | Tensor):
            return self.maximum(x, dim)  # type: ignore[return-value]
        if dim is None:
            raise Unsupported("of a whole tensor mixes samples; give an axis")
        table = x.places.movedim(dim, -1)
        none = torch.zeros(1, dtype=torch.bool)
        result = self.build.largest(x, table.reshape(-1, table.shape[-1]), none)
        places = result.places.reshape(table.shape[:-1])
        return (result.moved(places.unsqueeze(dim) if keepdim else places),)


def _two(numbers: int | Sequence[int]) -> list[int]:
    """(height, width) from one number or two."""
    listed = [numbers] if isinstance(numbers, int) else list(numbers)
    return listed * 2 if len(listed) == 1 else listed


def _listed(dim: Any) -> list[int]:
    return [dim] if isinstance(dim, int) else list(dim)


def _sized(output_size: Any, x: Value) -> list[int]:
    return [length if size is None else size
            for size, length in zip(_two(output_size), x.places.shape[2:])]


HANDLERS: dict[str, Callable[..., Any]] = {
    **{name: getattr(Lowering, name) for name in """
        add sub rsub neg mul div pow square dropout linear matmul addmm batch_norm sum mean
        avg_pool2d adaptive_avg_pool2d max_pool2d adaptive_max_pool2d max maximum minimum relu
        leaky_relu rrelu prelu abs clamp clamp_min clamp_max hardtanh relu6 hardsigmoid hardswish
        cat stack softmax pad""".split()},
    "_to_copy": Lowering.cast, "to": Lowering.cast, "type_as": lambda lower, x, other: x,
    "feature_dropout": Lowering.dropout, "alpha_dropout": Lowering.dropout,
    "feature_alpha_dropout": Lowering.dropout, "log_softmax": Lowering.softmax,
    "conv1d": Lowering.convolution1d, "conv2d": Lowering.convolution, "mm": Lowering.matmul,
    "concat": Lowering.cat, "concatenate": Lowering.cat, "subtract": Lowering.sub,
    "multiply": Lowering.mul, "divide": Lowering.div, "true_divide": Lowering.div,
    "constant_pad_nd": lambda lower, x, pad, value=0: lower.pad(x, pad, value=value),
    "negative": Lowering.neg, "absolute": Lowering.abs, "clip": Lowering.clamp,
}

"""The operators of torch that can be read, by the names that `torch.export` gives them.

Each handler makes what a node computes out of a few operators of ours. What only moves numbers is
done to their places by torch itself (`MOVES`). Anything else is refused, with its name and place.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional

from fdimlib.building import Builder, adaptive_windows, patch_windows
from fdimlib.layouts import Value

MOVES = frozenset("""
    alias channel_shuffle chunk clone contiguous detach detach_copy
    diagonal expand expand_as flatten flip index index_select lift_fresh lift_fresh_copy movedim
    narrow permute pixel_shuffle pixel_unshuffle repeat repeat_interleave reshape reshape_as
    roll select slice split split_with_sizes squeeze swapaxes swapdims t tile transpose unbind
    unflatten unfold unsafe_chunk unsafe_split unsqueeze upsample_nearest1d upsample_nearest2d
    view view_as numpy_T mT
""".split())
"""Operators that copy entries, or look at them differently."""

COPIES = frozenset("""
    clone flip index index_select pixel_shuffle pixel_unshuffle repeat repeat_interleave roll
    tile upsample_nearest1d upsample_nearest2d
""".split())
"""Those of them whose result never shares its storage."""

SMOOTH = frozenset("""
    gelu tanh sigmoid silu exp log softplus elu celu selu mish layer_norm group_norm instance_norm
    native_layer_norm native_group_norm scaled_dot_product_attention sqrt rsqrt erf sin cos
    logsigmoid norm linalg_vector_norm tanhshrink softsign reciprocal rms_norm var std
    _fused_rms_norm logsumexp local_response_norm _weight_norm weight_norm_interface
    _weight_norm_interface
""".split())


class Unsupported(TypeError):
    """Why an operator cannot be read."""


def refusal(node: fx.Node, why: str) -> str:
    """A message that names an operator and its place in the module."""
    name = node.target.__name__.split(".")[0] if callable(node.target) else str(node.target)
    stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    path = next((path for path in reversed(stack) if not path.startswith("_")), "")
    place = f" at {path}" if path else " in its forward"
    if name.strip("_") in SMOOTH or name in SMOOTH:
        why = ("not piecewise polynomial; its derivative's rank cannot be decided by algebra; "
               "method=\"svd\" counts singular values")
        return f"model: aten.{name}{place}: {why}"
    advice = "" if ";" in why else "; method=\"svd\" counts singular values of every module"
    return f"model: aten.{name}{place}: {why}{advice}"


@dataclass(frozen=True, eq=False)
class Softened(Value):
    """What comes out of a softmax: nothing may follow but moving.

    Attributes:
        members: (groups, members) places that are compared with each other.
    """

    members: Tensor

    def moved(self, places: Tensor, group: object = None) -> Value:
        return Softened(self.node, self.size, places.long(), self.batched, group or self.group,
                        self.members)

    def groups_of(self, outputs: Tensor) -> Tensor:
        """The groups among a sample's outputs, places of them."""
        position = {place: number for number, place in enumerate(outputs.tolist())}
        own = [group for group in self.members.tolist() if position.keys() & set(group)]
        listed = [[position.get(place, -1) for place in group] for group in own]
        found = torch.tensor(listed)
        if (found < 0).any() or found.numel() != len(outputs) or len(position) != len(outputs):
            raise ValueError("model: gives a part of what its softmax gives, or some of it twice; "
                             "give all of it, or the logits")
        return found


def _two(numbers: int | Sequence[int]) -> list[int]:
    """(height, width) from one number or two."""
    listed = [numbers] if isinstance(numbers, int) else list(numbers)
    return listed * 2 if len(listed) == 1 else listed


class Lowering:
    """Makes the operators of one network."""

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

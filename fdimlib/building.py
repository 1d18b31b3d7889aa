"""Making operators from tensors of places: entry by entry, row by row, or window by window."""

import math
from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

from fdimlib.affine import Affine
from fdimlib.layouts import Mixed, Rows, Value, operand, rows_by_sample, rows_once
from fdimlib.operators import (
    Constant,
    Divide,
    Input,
    Join,
    Negative,
    Operand,
    Operator,
    Parameter,
    Product,
    Sum,
    Windows,
)
from fdimlib.piecewise import Max, Switch

Make = Callable[[tuple[Operand, ...], int], Operator]


class Builder:
    """Collects the operators of a network that is read with a batch of some samples."""

    def __init__(self, batch: int):
        self.batch = batch
        self.operators: list[Operator] = []

    def add(self, operator: Operator) -> int:
        self.operators.append(operator)
        return len(self.operators) - 1

    # Sources

    def sample(self, shape: Sequence[int]) -> Value:
        size = math.prod(shape)
        places = torch.arange(self.batch)[:, None] * (size + 1) + torch.arange(size)
        return self._value(Input((), size), places.reshape(self.batch, *shape), True)

    def parameter(self, shape: Sequence[int], number: int, start: int) -> Value:
        size = math.prod(shape)
        node = Parameter((), size, number, start)
        return self._value(node, torch.arange(size).reshape(tuple(shape)), False)

    def constant(self, values: Tensor | float) -> Value:
        """Each number once, so that a tensor filled with one looks the same at every sample."""
        values = torch.as_tensor(values, dtype=torch.float64).detach().cpu()
        numbers, places = torch.unique(values, return_inverse=True)
        return self._value(Constant((), len(numbers), numbers), places.reshape(values.shape), False)

    def _value(self, operator: Operator, places: Tensor, batched: bool) -> Value:
        return Value(self.add(operator), operator.size, places, batched, object())

    # Entry by entry

    def entrywise(self, make: Make, *values: Value) -> Value:
        """An operator on entries that stand at the same place, broadcast."""
        shape = torch.broadcast_shapes(*(value.places.shape for value in values))
        tables = [value.places.expand(shape).reshape(-1, 1) for value in values]
        batched = any(value.batched for value in values)
        if not batched:
            rows = [rows_once(torch.cat(tables, dim=1))]
            indices = list(rows[0].entries.T)
        else:
            samples = [table // (value.size + 1) for value, table in zip(values, tables)
                       if value.batched]
            if any((other != samples[0]).any() for other in samples):
                raise Mixed
            rows = [rows_by_sample(
                value, table if value.batched else samples[0] * (value.size + 1) + table,
                self.batch) for value, table in zip(values, tables)]
            indices = [row.entries[:, 0] for row in rows]
        order = self._own_order(values, indices)
        if order is None:
            order = torch.arange(len(indices[0]))
        arranged = [torch.empty_like(index).scatter_(0, order, index) for index in indices]
        size = len(order)
        node = make(tuple(map(operand, values, arranged)), size)
        places = order[rows[0].rank] + (rows[0].sample * (size + 1) if batched else 0)
        return self._value(node, places.reshape(shape), batched)

    def _own_order(self, values: Sequence[Value], indices: list[Tensor]) -> Tensor | None:
        """Of an operand all of whose entries are taken once, so that they need not be moved."""
        for value, index in zip(values, indices):
            if len(index) == value.size and torch.equal(index.sort().values,
                                                        torch.arange(value.size)):
                return index
        return None

    def add_values(self, x: Value, y: Value) -> Value:
        return self.entrywise(Sum, x, y)

    def negative(self, x: Value) -> Value:
        return self.entrywise(Negative, x)

    def subtract(self, x: Value, y: Value) -> Value:
        return self.add_values(x, self.negative(y))

    def multiply(self, x: Value, y: Value) -> Value:
        return self.entrywise(Product, x, y)

    def scale(self, x: Value, factor: float) -> Value:
        return x if factor == 1 else self.multiply(x, self.constant(factor))

    def divide(self, x: Value, divisors: Tensor) -> Value:
        """By floating-point numbers, exactly: an odd integer times a power of two."""
        divisors = divisors.detach().double().cpu()
        if not divisors.all():
            raise ValueError("divides by 0")
        odd, power = [], []
        for number in divisors.flatten().tolist():
            top, bottom = number.as_integer_ratio()
            twos = (abs(top) & -abs(top)).bit_length() - 1
            odd.append(top >> twos)
            power.append(bottom / 2.0**twos)
        x = self.multiply(x, self.constant(torch.tensor(power).double().reshape(divisors.shape)))
        numbers, places = torch.unique(torch.tensor(odd), return_inverse=True)
        if numbers.tolist() == [1]:
            return x
        marks = self.constant(places.reshape(divisors.shape).double())  # which divisor is whose

        def make(operands: tuple[Operand, ...], size: int) -> Operator:
            index = operands[1].entries
            which = torch.arange(size) if index is None else index
            return Divide(operands[:1], size, numbers[which])

        return self.entrywise(make, x, marks)

    def switch(self, x: Value, thresholds: Sequence[float], pieces: Sequence[tuple[int, float]],
               at: Sequence[float]) -> Value:
        return self.entrywise(
            lambda operands, size: Switch(operands, size, tuple(thresholds), tuple(pieces),
                                          tuple(at)), x)

    def relu(self, x: Value) -> Value:
        return self.switch(x, [0.0], [(0, 0.0), (1, 0.0)], [0])

    # Row by row

    def rows(self, value: Value, table: Tensor) -> Rows:
        if not value.batched:
            return rows_once(table)
        return rows_by_sample(value, table, self.batch)

    def _result(self, operator: Operator, rows: Rows, features: Tensor, batched: bool) -> Value:
        """The value of an operator, by the features of each row of a sample, (R, …)."""
        places = features[rows.rank]
        sample = rows.sample.reshape(-1, *[1] * (places.dim() - 1))
        return self._value(operator, places + sample * (operator.size + 1) * batched, batched)

    def affine(self, x: Value, table: Tensor, w: Value, weights: Tensor, b: Value | None,
               groups: int = 1) -> Value:
        """W x for each row of a table (rows, G·K), W (G·O, K); the result is (rows, G·O)."""
        rows = self.rows(x, table)
        count, outputs, inner = len(rows.entries), len(weights), weights.shape[1]
        index = rows.entries.reshape(count, groups, inner).permute(1, 2, 0)
        inputs = [operand(w, weights), operand(x, index)]
        if b is not None:
            inputs.append(operand(b, b.places))
        size = outputs * count
        node = Affine(tuple(inputs), size, (groups, outputs // groups, inner, count))
        features = torch.arange(size).reshape(outputs, count).T
        return self._result(node, rows, features, x.batched)

    def windows(self, x: Value, table: Tensor) -> Value:
        """The sum of each row of a table (rows, k); the result is (rows,)."""
        rows = self.rows(x, table)
        node = Windows((operand(x, rows.entries.T),), len(rows.entries), table.shape[1])
        return self._result(node, rows, torch.arange(len(rows.entries)), x.batched)

    def largest(self, x: Value, table: Tensor, absent: Tensor) -> Value:
        """The largest entry of each row of a table (rows, k); `absent` (k,) or (rows, k)."""
        rows = self.rows(x, table)
        first = torch.empty(len(rows.entries), dtype=torch.long)
        first[rows.rank] = torch.arange(len(table))  # a row of the table for each of a sample's
        mask = absent.expand(table.shape)[first].T.contiguous()
        node = Max((operand(x, rows.entries.T),), len(rows.entries), table.shape[1], mask)
        return self._result(node, rows, torch.arange(len(rows.entries)), x.batched)

    def join(self, values: Sequence[Value], dim: int) -> Value:
        """Concatenated along an axis."""
        nodes = list(dict.fromkeys(value.node for value in values))
        sizes = {value.node: value.size for value in values}
        starts = dict(zip(nodes, torch.tensor([0, *sizes.values()]).cumsum(0).tolist()))
        total, batched = sum(sizes.values()), any(value.batched for value in values)
        entries, samples = [], []
        for value in values:
            entry = value.places % (value.size + 1) if value.batched else value.places
            entries.append(torch.where(entry == value.size, total, entry + starts[value.node]))
            samples.append(value.places // (value.size + 1) if value.batched
                           else torch.full_like(entry, -1))
        places = torch.cat(entries, dim)
        if batched:
            sample = torch.cat(samples, dim).flatten(1)
            of_row = sample.amax(dim=1, keepdim=True)
            if (of_row < 0).any() or ((sample >= 0) & (sample != of_row)).any():
                raise Mixed
            places = (places.flatten(1) + of_row * (total + 1)).reshape(places.shape)
        if len(nodes) == 1 and batched == values[0].batched:
            return Value(nodes[0], total, places, batched, object())
        node = Join(tuple(map(Operand, nodes)), total, tuple(sizes[node] for node in nodes))
        return self._value(node, places, batched)


def patch_windows(shape: Sequence[int], kernel: Sequence[int], stride: Sequence[int],
                  before: Sequence[int], dilation: Sequence[int],
                  positions: Sequence[int]) -> Tensor:
    """Which pixels each position of a kernel sees, (T, k) places in a map (H, W); −1: padding."""
    height, width = shape
    after = [(count - 1) * step + reach * (size - 1) + 1 - length - pad
             for count, step, reach, size, length, pad
             in zip(positions, stride, dilation, kernel, shape, before)]
    pixels = torch.arange(1, height * width + 1, dtype=torch.float64).reshape(1, 1, height, width)
    padded = functional.pad(pixels, (before[1], after[1], before[0], after[0]))
    patches = functional.unfold(padded, tuple(kernel), tuple(dilation), 0, tuple(stride))
    return patches[0].T.long() - 1


def adaptive_windows(shape: Sequence[int], positions: Sequence[int]) -> Tensor:
    """The same for adaptive pooling, whose windows need not be equally large."""
    def spans(length: int, count: int) -> list[range]:
        return [range(i * length // count, -(-(i + 1) * length // count)) for i in range(count)]

    by_rows, by_columns = spans(shape[0], positions[0]), spans(shape[1], positions[1])
    windows = [[row * shape[1] + column for row, column in product(rows, columns)]
               for rows, columns in product(by_rows, by_columns)]
    most = max(map(len, windows))
    return torch.tensor([window + [-1] * (most - len(window)) for window in windows])

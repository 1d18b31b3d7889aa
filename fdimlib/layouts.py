"""Where the entries of a tensor come from: which sample, and which entry of an operator's result.

While a network is read, a tensor that depends on the sample is, for a batch of b samples, a tensor
of places: entry f of sample s is s·(F + 1) + f, and f = F stands for the number 0. So everything
that only moves numbers (reshaping, slicing, padding, unfolding into patches) is done to the places
by torch itself, and what comes out is right because it is the same operation. That samples do not
mix is seen by looking: whatever is combined must be of one sample, and look the same in each.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fdimlib.operators import ZERO, Operand

MIXED = "mixes samples, or does not do the same to each; the rank is about rows that belong to one"


class Mixed(ValueError):
    """Samples are combined, or told apart."""

    def __init__(self) -> None:
        super().__init__(MIXED)


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the network, as it is read.

    Attributes:
        node: the operator whose entries it holds.
        size: F, of that operator.
        places: int64, of the tensor's shape.
        batched: whether it depends on the sample; if not, places are f alone.
        group: shared by views of one storage, which an operator in place changes together.
    """

    node: int
    size: int
    places: Tensor
    batched: bool
    group: object

    def moved(self, places: Tensor, group: object = None) -> "Value":
        """The same entries elsewhere."""
        return Value(self.node, self.size, places.long(), self.batched, group or self.group)

    def padded(self, places: Tensor) -> Tensor:
        """Places where −1 stands for the number 0, of the sample of its slice of the first axis."""
        places = places.long()
        if not self.batched:
            return torch.where(places < 0, self.size, places)
        sample = self.places.flatten(1) // (self.size + 1)
        if len(places) != len(sample) or (sample != sample[:, :1]).any():
            raise Mixed
        zero = sample[:, 0] * (self.size + 1) + self.size
        return torch.where(places < 0, zero.reshape(-1, *[1] * (places.dim() - 1)), places)


class Rows(NamedTuple):
    """A table of places, (rows, k), each row of one sample, sorted by sample.

    Attributes:
        sample: of each row, (rows,).
        rank: of each row among those of its sample, (rows,).
        entries: of the operator's result that a sample's rows hold, (R, k).
    """

    sample: Tensor
    rank: Tensor
    entries: Tensor


def rows_by_sample(value: Value, table: Tensor, batch: int) -> Rows:
    """Sort the rows of a table by sample.

    Raises:
        Mixed: a row is of several samples, or samples hold different entries.
    """
    if not len(table) or not table.shape[1]:
        raise ValueError("has no entries")
    sample, entry = table // (value.size + 1), table % (value.size + 1)
    if (sample != sample[:, :1]).any():
        raise Mixed
    of_rows = sample[:, 0]
    order = of_rows.argsort(stable=True)
    counts = torch.bincount(of_rows, minlength=batch)
    if len(counts) > batch or (counts != counts[0]).any():
        raise Mixed
    by_sample = entry[order].reshape(batch, -1, table.shape[1])
    if (by_sample != by_sample[0]).any():
        raise Mixed
    rank = torch.empty_like(of_rows)
    rank[order] = torch.arange(len(of_rows)) % (len(of_rows) // batch)
    return Rows(of_rows, rank, by_sample[0])


def rows_once(table: Tensor) -> Rows:
    """The rows of a table that depends on no sample, equal ones once.

    So a parameter that is spread over a batch looks the same, however large the batch.
    """
    entries, rank = torch.unique(table, dim=0, return_inverse=True)
    return Rows(torch.zeros_like(rank), rank, entries)


def operand(value: Value, index: Tensor) -> Operand:
    """Entries of a value's operator; none named where these are all of them, in order."""
    index = index.flatten()
    if len(index) == value.size and torch.equal(index, torch.arange(value.size)):
        return Operand(value.node)
    return Operand(value.node, torch.where(index == value.size, ZERO, index))

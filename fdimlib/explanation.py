"""Where the parameters go: P − rank Df_θ(X), term by term, each an exact integer with a proof.

The rank is P less the dimension of the kernel of Df_θ(X): the directions in which the parameters
can move without any output changing, to first order. This module finds a part of that kernel that
has a reason, as a sum of subspaces that are counted once each. Notation: unit i of layer l has
weights w_i, bias b_i and pre-activation z_i(x) = w_i·h(x) + b_i, h the activations of layer l −
1; A_i ⊂ X, the samples where it is active (all of X for an output); S_i = span{(h(x), 1) : x in
A_i}, what the unit *sees*; without a bias the 1 is missing, here and below.

1. **Blind spots.** A change of (w_i, b_i) that is orthogonal to S_i changes z_i nowhere on A_i,
   hence no output. That is N_{l−1} + 1 − dim S_i directions for unit i, in its own coordinates,
   so the sum over units is direct: call it B. A unit that is *never active* on X sees nothing:
   all its N_{l−1} + 1 coordinates are in B, and so is its weight into each unit that is ever
   active. These are counted as "never active", the rest of B as "blind spots".
2. **Rescalings.** (w_i, b_i) → λ(w_i, b_i), weights out of i divided by λ: the direction (w_i,
   b_i, −out_i). For the units that are ever active these are independent modulo B. Proof: let a
   combination with coefficients c lie in B, and go through the layers upwards. In layer l the
   coordinates of unit i hold c_i (w_i, b_i) less the c_j W_ij of the units j of layer l − 1, of
   which those ever active have c_j = 0 already, while the others' coordinates are in i's blind
   spot. So c_i (w_i, b_i) is orthogonal to S_i; but (w_i, b_i)·(h(x), 1) = z_i(x) > 0 at each x
   in A_i, so c_i = 0. (The rescaling of a unit that is never active lies in B and is not counted
   again.)
3. **The softmax's shift.** The same vector added to the weights and bias of every output changes
   no difference of two logits. Modulo B that is dim S_L directions, S_L what the outputs see.
   They lie in the coordinates of the last layer only, where by 2 no combination of rescalings
   lies, modulo B.
4. **Units active together.** Where units i ≠ j of one layer are active on the same samples,
   adding ε(w_j, b_j) to (w_i, b_i) adds ε z_j to z_i exactly where h_j = z_j: subtracting ε W_ki
   from W_kj, for every k of the next layer, takes it back. Where i is *always* active, adding ε
   to b_i is taken back by −ε W_ki in b_k. These directions may depend on each other and on those
   above (twins, say), so what is counted is the rank of all directions of 2, 3 and 4 together
   modulo B, less the number of those of 2 and 3.
5. **The sample.** n samples have n·N_L rows (softmax: n(N_L − 1)); what they cannot tell apart
   beyond 1 to 4.

What is left is *unexplained*: kernel that comes from how the layers play together at this θ. All
ranks are computed modulo the prime p of the rank itself, where the same proofs hold as long as
some z_i(x), x in A_i, of every unit ever active is not 0 modulo p. So the explained sum exceeds P −
rank only if p divides all of these for some unit, or if an elimination that gave some S_i rejected
a row wrongly: for each row at most (p − 1)^-2, see `certificate`. (Neither is in
`Dimension.error_bound`, which speaks of the rank; a rank too small only adds to what is
unexplained.) The blind-spot inequality is that of notebook 07; the rescalings are the paper's.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from fdimlib.dimension import Dimension, batch_functional_dimension, settle
from fdimlib.draws import Draws
from fdimlib.finite_field import PrimeField
from fdimlib.models import read
from fdimlib.patterns import certified_signs
from fdimlib.reading import Network
from fdimlib.rows import ExplicitRows
from fdimlib.validation import device_of, untouched

if TYPE_CHECKING:
    import pandas as pd


Term = tuple[str, int, int]
"""What takes dimensions away, in which layer (from 1; 0: the whole network), and how many."""


@dataclass(frozen=True, repr=False)
class Explanation:
    """P − rank Df_θ(X), term by term; `print` shows a table, `table` gives it as a DataFrame.

    Attributes:
        dimension: the rank, as `batch_functional_dimension` gives it.
        terms: see `Term`.
    """

    dimension: Dimension
    terms: tuple[Term, ...]

    @property
    def explained(self) -> int:
        """The dimensions that have a reason."""
        return sum(count for _, _, count in self.terms)

    @property
    def unexplained(self) -> int:
        """The rest of P − rank."""
        return self.dimension.parameters - self.explained - self.dimension.value

    @property
    def rows(self) -> list[tuple[str, int, int]]:
        """From P down to the rank: (term, layer, dimensions), what is taken away with a minus."""
        return [
            ("parameters", 0, self.dimension.parameters),
            *((term, layer, -count) for term, layer, count in self.terms),
            ("unexplained", 0, -self.unexplained),
            ("rank", 0, self.dimension.value),
        ]

    @property
    def table(self) -> "pd.DataFrame":
        """The rows as a pandas DataFrame with columns term, layer, dimensions.

        Raises:
            ModuleNotFoundError: pandas, which nothing else in the instrument needs, is missing.
        """
        try:
            import pandas as pd
        except ModuleNotFoundError:
            raise ModuleNotFoundError("table: pandas is not installed; pip install pandas, or take "
                                      "the same from .rows", name="pandas") from None

        return pd.DataFrame(self.rows, columns=["term", "layer", "dimensions"])

    def __repr__(self) -> str:
        names = [f"{term}, layer {layer}" if layer else term for term, layer, _ in self.rows]
        width = max(map(len, names))
        lines = [f"{name:{width}} {count:>12,}" for name, (_, _, count) in zip(names, self.rows)]
        return "\n".join([*lines, repr(self.dimension)])


@untouched
def explain(
    model: nn.Module, x: ArrayLike | Tensor, head: str | None = None, *,
    device: str | torch.device | None = None, progress: bool = True,
) -> Explanation:
    """Where P − rank Df_θ(X) goes; the docstring of this module defines and proves each term.

    Args:
        model: a network that computes Linear, ReLU, …, Linear, whatever its layers are called.
        x, head, device, progress: as in `batch_functional_dimension`.

    Raises:
        TypeError: any other network.

    >>> import fdimlib as fd
    >>> net = fd.relu_mlp([2, 3, 1], seed=1, bias_std=1.0)
    >>> why = explain(net, fd.gaussian_inputs(200, 2, mean=0.0))
    >>> why.explained + why.unexplained + int(why.dimension)
    13
    """
    few = x[:1] if isinstance(x, Tensor | np.ndarray) and x.ndim > 1 else x  # to be refused at once
    if not isinstance(read(model, few, head)[0], Network):
        raise TypeError("model: what is missing is explained for Linear, ReLU, …, Linear only; "
                        "batch_functional_dimension gives the rank of this network")
    dimension = batch_functional_dimension(model, x, head=head, device=device, progress=progress)
    network, inputs = read(model, x, head)
    assert isinstance(network, Network)
    inputs = inputs.to(device_of("device", device, network.device))
    return Explanation(dimension, tuple(kernel_terms(network, inputs, dimension.primes[-1])))


def kernel_terms(network: Network, x: Tensor, prime: int) -> list[Term]:
    """The terms alone, without the rank: a small part of its time."""
    view = _View(network, x, PrimeField(prime))
    terms = [*view.silent(), *view.blind(), *view.symmetries()]
    left = network.parameters - sum(count for _, _, count in terms)
    terms.append(("sample too small", 0, max(0, left - len(x) * network.outputs)))
    return terms


class _View:
    """What every unit sees of a sample, modulo a prime. Layers count from 1; L is the output.

    Attributes:
        seen: for each layer the inputs of its units at every sample, (n, N_{l−1} + 1), residues.
        active: for each layer (n, N_l) bool; all true for the outputs.
        basis: for each layer and unit, samples in A_i whose rows of `seen` are a basis of S_i.
    """

    def __init__(self, network: Network, x: Tensor, field: PrimeField) -> None:
        self.network, self.field = network, field
        layers = network.affine(x.device)
        everywhere = torch.ones(len(x), network.widths[-1], dtype=torch.bool, device=x.device)
        self.active = [*(sign > 0 for sign in certified_signs(layers, x)), everywhere]
        self.weights = [field.image(weight) for weight, _ in layers]
        self.seen = []
        h = field.image(x)
        for weight, (_, bias), active in zip(self.weights, layers, self.active):
            if bias is not None:
                h = torch.cat([h, h.new_ones(len(h), 1)], dim=1)
                weight = torch.cat([weight, field.image(bias)[:, None]], dim=1)
            self.seen.append(h)
            h = field.matmul(h, weight.T) * active
        self.basis = [self._bases(seen, active)
                      for seen, active in zip(self.seen, self.active)]

    def _bases(self, seen: Tensor, active: Tensor) -> list[Tensor]:
        """The basis of each unit of a layer; units active on the same samples share theirs."""
        found: dict[bytes, Tensor] = {}
        names = [pattern(on) for on in active.T]
        for name, on in zip(names, active.T):
            if name not in found:
                samples = on.nonzero()[:, 0]
                found[name] = samples[independent_rows(seen[samples], self.field)]
        return [found[name] for name in names]

    def alive(self, layer: int) -> list[int]:
        """Units of a layer that are ever active."""
        return self.active[layer - 1].any(dim=0).nonzero()[:, 0].tolist()

    def hidden(self) -> range:
        return range(1, len(self.seen))

    def silent(self) -> Iterator[Term]:
        """What goes with units that are never active.

        Their own coordinates, and their weights into units that live.
        """
        for layer in self.hidden():
            count = self.network.widths[layer] - len(self.alive(layer))
            own, onward = self.seen[layer - 1].shape[1], len(self.alive(layer + 1))
            yield "never active", layer, count * (own + onward)

    def blind(self) -> Iterator[Term]:
        """What living units do not see, beyond the silent units of the layer before."""
        silent = 0
        for layer, (seen, bases) in enumerate(zip(self.seen, self.basis), start=1):
            alive = self.alive(layer)
            not_seen = (seen.shape[1] - silent - len(bases[unit]) for unit in alive)
            yield "blind spots", layer, sum(not_seen)
            silent = self.network.widths[layer] - len(alive)

    def symmetries(self) -> Iterator[Term]:
        """Rescalings and the softmax's shift, independent of each other; what 4 adds to them."""
        for layer in self.hidden():
            yield "rescalings", layer, len(self.alive(layer))
        softmax = self.network.head == "softmax"
        if softmax:
            yield "softmax shift", len(self.seen), len(self.basis[-1][0])
        exchanges = [exchange for layer in self.hidden() for exchange in self._exchanges(layer)]
        known = sum(len(self.alive(layer)) for layer in self.hidden())
        together = 0
        if len(exchanges) > known:  # otherwise these are the rescalings alone
            directions = [self._exchange(*exchange) for exchange in exchanges]
            if softmax:
                directions += self._shifts()
                known += len(self.basis[-1][0])
            together = len(independent_rows(torch.stack(directions), self.field)) - known
        yield "active together", 0, together

    def _exchanges(self, layer: int) -> Iterator[tuple[int, int, int]]:
        """(layer, unit i, column j of what comes next): z_j can be added to z_i, and taken back."""
        active = self.active[layer - 1]
        patterns = {unit: pattern(active[:, unit]) for unit in self.alive(layer)}
        constant = self.biased(layer) and self.biased(layer + 1)
        for unit, own in patterns.items():
            yield from ((layer, unit, other) for other, its in patterns.items() if its == own)
            if constant and active[:, unit].all():
                yield layer, unit, self.network.widths[layer]

    def biased(self, layer: int) -> bool:
        return self.network.linears[layer - 1].bias is not None

    def _exchange(self, layer: int, unit: int, column: int) -> Tensor:
        """The direction modulo blind spots: what it changes on the bases of two layers."""
        added = self.seen[layer][:, column]
        changes = {(layer, unit): added}
        for after, weight in enumerate(self.weights[layer][:, unit]):
            changes[layer + 1, after] = -self.field.mul(added, weight)
        return self._on_bases(changes)

    def _shifts(self) -> list[Tensor]:
        """The same change of every output, one for each of their inputs."""
        outputs = [(len(self.seen), output) for output in range(self.network.widths[-1])]
        return [self._on_bases(dict.fromkeys(outputs, column)) for column in self.seen[-1].T]

    def _on_bases(self, changes: dict[tuple[int, int], Tensor]) -> Tensor:
        """What a direction changes in z at the basis samples of every unit, one after the other."""
        nothing = self.seen[0].new_zeros(len(self.seen[0]))
        units = ((layer, unit, basis) for layer, bases in enumerate(self.basis, start=1)
                 for unit, basis in enumerate(bases))
        return torch.cat([changes.get((layer, unit), nothing)[basis]
                          for layer, unit, basis in units])


def pattern(on: Tensor) -> bytes:
    """The samples where a unit is active, as a key."""
    return on.cpu().numpy().tobytes()


def independent_rows(rows: Tensor, field: PrimeField) -> Tensor:
    """The indices of a maximal independent set of the rows of a matrix of residues.

    Raises:
        ArithmeticError: the checks of the elimination failed, time after time.
    """
    if not rows.numel():
        return torch.arange(0)

    def source(generator: np.random.Generator) -> ExplicitRows:
        d = field.random(rows.shape[1], generator=generator, device=rows.device)
        return ExplicitRows(rows, d, field)

    draws = Draws.of([rows], prime=field.p)
    found = settle(source, field, draws, bound=min(rows.shape), progress=False)
    if not found.verified:
        raise ArithmeticError("the checks of an elimination failed; is the hardware sound?")
    return found.pivots.to(rows.device)

"""Every public function, fed with values of the wrong kind, shape, dtype, device and size.

It gives the right result, by a second route, or an error of ours that begins with the name of one
of its arguments. FDIMLIB_FUZZ=700 tries so many inputs a function instead of a few, new ones each
time.
"""

import inspect
import os
import re
import traceback
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from helpers import rational_rank, rational_signs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn
from torch.nn.utils import prune

import fdimlib as fd

INPUTS = int(os.environ.get("FDIMLIB_FUZZ", "12"))
ERRORS = (TypeError, ValueError, MemoryError, FloatingPointError, FileNotFoundError)
HOME = Path(fd.__file__).parent


def good():
    return fd.relu_mlp([3, 4, 2], seed=0, bias_std=1.0)


def with_parameter(key, value, layer=0):
    net = good()
    setattr(net[layer], key, nn.Parameter(value, requires_grad=False))
    return net


def replaced(change):
    net = good()
    change(net)
    return net


MODELS = {  # which compute what they say, then which do not
    "good": good, "float32": lambda: good().float(), "float16": lambda: good().half(),
    "bfloat16": lambda: good().bfloat16(), "float8": lambda: good().to(torch.float8_e5m2),
    "softmax": lambda: nn.Sequential(nn.Flatten(), *good(), nn.Softmax(dim=-1)),
    "frozen": lambda: good().requires_grad_(False), "eval": lambda: good().eval(),
    "one layer": lambda: fd.relu_mlp([3, 2], seed=1),
    "transposed": lambda: with_parameter("weight", torch.ones(3, 4).double().T),
    "mixed": lambda: replaced(lambda net: net[0].float()),
    "huge numbers": lambda: with_parameter("weight", torch.ones(4, 3).double() * 1e300),
    "denormal": lambda: with_parameter("weight", torch.ones(4, 3).double() * 5e-324),
    "wide": lambda: nn.Sequential(nn.Linear(3, 9000), nn.ReLU(), nn.Linear(9000, 2)),
    "NaN": lambda: with_parameter("bias", torch.full((4,), torch.nan).double()),
    "expanded": lambda: with_parameter("weight", torch.ones(1, 3).double().expand(4, 3)),
    "integer": lambda: with_parameter("weight", torch.ones(4, 3).long()),
    "complex": lambda: good().to(torch.complex64), "meta": lambda: good().to("meta"),
    "short bias": lambda: with_parameter("bias", torch.ones(1).double()),
    "flat weight": lambda: with_parameter("weight", torch.ones(3).double()),
    "empty weight": lambda: with_parameter("weight", torch.ones(0, 3).double()),
    "no weight": lambda: with_parameter("weight", torch.ones(0).double()),
    "lost weight": lambda: replaced(lambda net: net[0].register_parameter("weight", None)),
    "sparse": lambda: with_parameter("weight", torch.eye(4, 3).double().to_sparse()),
    "tanh": lambda: replaced(lambda net: setattr(net[1], "forward", torch.tanh)),
    "hook": lambda: replaced(lambda net: net[0].register_forward_hook(lambda *_: None)),
    "pruned": lambda: replaced(lambda net: prune.l1_unstructured(net[0], "weight", 1)),
    "lazy": lambda: nn.Sequential(nn.LazyLinear(2)), "empty": nn.Sequential,
    "nested": lambda: nn.Sequential(good()),
    "convolution": lambda: nn.Sequential(nn.Conv1d(1, 1, 1)),
    "data parallel": lambda: nn.DataParallel(good()), "class": lambda: nn.Sequential,
    "layers": lambda: list(good()), "state": lambda: good().state_dict(),
    "Linear": lambda: good()[0],
    "None in it": lambda: nn.Sequential(nn.Linear(3, 2), None),
}

RIGHT_MODELS = list(MODELS)[: list(MODELS).index("mixed")]

numbers = st.one_of(
    st.integers(-3, 6), st.floats(), st.floats(-2, 2), st.complex_numbers(), st.booleans(),
    st.fractions(), st.decimals(), st.sampled_from([np.int8(2), np.float16(1), np.longdouble(0.5)]),
    st.sampled_from([torch.tensor(2), np.array(1.0), np.array([1]), torch.tensor([3.0])]),
)
large = st.sampled_from([2**31, 2**63 - 1, 2**63, 2**64, 10**30, 1e18, 1e300])
others = st.one_of(
    st.none(), st.text(max_size=3), st.binary(max_size=3),
    st.dictionaries(st.integers(), st.none()),
    st.sampled_from([object(), nn.Sequential, torch.float32, torch.device("meta"), print, ...,
                     {1, 2}, pd.NA, pd.Timestamp(0), np.datetime64(0, "s"), "cpu", "gpu", "cuda:9",
                     "softmax", "exact", "svd", "region", "identity", slice(2), "x.pt2", "x.pth",
                     Path("nowhere.safetensors"), np.str_("softmax"), iter([1, 2]), range(3)]),
)
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8,
          torch.bool, torch.complex64, torch.int8, torch.uint16, torch.float8_e4m3fn]
SHAPES = [(), (0,), (2,), (3,), (4,), (6,), (6, 3), (2, 3), (2, 1, 3), (0, 3), (6, 0), (3, 3),
          (6, 4)]


def tensor(shape, dtype, kind, seed):
    values = np.random.default_rng(seed).integers(0, 2, size=shape)
    t = torch.from_numpy(np.asarray(values)).to(dtype)
    if kind == "list":
        return t.double().tolist() if not dtype.is_complex else t.tolist()
    if kind == "rows" and shape:
        return list(t)
    if kind == "meta":
        return t.to("meta")
    if kind == "gradient" and dtype.is_floating_point:
        return t.requires_grad_()
    if kind == "sparse" and len(shape) == 2 and dtype in (torch.float64, torch.int64):
        return t.to_sparse()
    if kind == "quantised":
        return torch.quantize_per_tensor(torch.ones(shape), 0.1, 0, torch.quint8)
    if kind == "nested" and shape == (2, 3):
        return torch.nested.nested_tensor(list(t.double()))
    if kind == "masked":
        return np.ma.masked_array(values, mask=values > 0)
    if kind == "frame" and len(shape) == 2:
        return pd.DataFrame(values, dtype="Int64")
    if kind == "huge":
        return torch.zeros(1, 1, dtype=dtype).expand(10**9, 3)
    return t


KINDS = ["plain", "list", "rows", "meta", "gradient", "sparse", "quantised", "nested", "masked",
         "frame", "huge"]
tensors = st.builds(tensor, st.sampled_from(SHAPES), st.sampled_from(DTYPES),
                    st.sampled_from(KINDS), st.integers(0, 9))
arrays = hnp.arrays(
    st.sampled_from(["f8", "f4", ">f8", "f2", "i8", "u8", "u1", "?", "c16", "O", "U2", "M8[s]"]),
    st.sampled_from(SHAPES))
lists = st.lists(st.one_of(numbers, others, st.lists(numbers, max_size=4)), max_size=4)
anything = st.one_of(numbers, others, tensors, arrays, lists)
models = st.sampled_from(sorted(MODELS)).map(lambda name: MODELS[name]())

X = fd.gaussian_inputs(6, 3)
Y = [0, 1, 0, 1, 1, 1]
FUNCTIONS = {  # what is right for each of its arguments
    fd.batch_functional_dimension: dict(
        model=good, x=X, head=None, method="exact", at="parameters", seed=None, device=None,
        repeats=1, progress=False),
    fd.full_functional_dimension: dict(
        model=good, head=None, mean=0.5, std=1.0, seed=0, device=None, max_samples=6,
        progress=False),
    fd.gaussian_inputs: dict(n=4, width=3, mean=0.5, std=1.0, seed=0),
    fd.explain: dict(model=good, x=X, head=None, device=None, progress=False),
    fd.jacobian: dict(model=good, x=X, head=None),
    fd.spectrum: dict(model=good, x=X, head="identity"),
    fd.numerical_rank: dict(s=[2.0, 1.0, 0.0], shape=(3, 4)),
    fd.activation_pattern: dict(model=good, x=X),
    fd.dimension_bound: dict(model=good, n=3, head=None),
    fd.rescale: dict(model=good, factors=[[1.0, 2.0, 0.5, 1.0]]),
    fd.permute: dict(model=good, permutations=[[1, 0, 3, 2]]),
    fd.relu_mlp: dict(widths=[3, 4, 2], seed=0, bias_std=0.0),
    fd.load_network: dict(path="nowhere.safetensors", layers=["Linear"]),
    fd.train: dict(model=good, x=X, y=Y, epochs=2, checkpoints=(1,), lr=0.1, batch_size=4, seed=0,
                   progress=False),
    fd.evaluate: dict(model=good, x=X, y=Y),
    fd.add_noise: dict(x=X, level=0.5, seed=0),
    fd.randomize_labels: dict(y=torch.tensor(Y), share=0.5, classes=3, seed=0),
}
ONES = [1, 1.0, np.int64(1), np.float32(1), torch.tensor(1), np.array(1.0)]
OTHERS = {  # which are right, too, each where an argument has this name
    "x": [X.numpy(), X.float(), X.tolist(), list(X.clone().requires_grad_()), X[:, None], X[:1],
          pd.DataFrame(X.numpy()), X.bfloat16(), X.T.contiguous().T, X.round()],
    "y": [np.array(Y, np.uint8), torch.tensor(Y, dtype=torch.int16), torch.tensor(Y)],
    "head": ["identity", "softmax"], "method": ["svd"], "at": ["region"], "layers": [None],
    "device": ["cpu", torch.device("cpu"), "cpu:0"], "progress": [np.False_],
    "factors": [torch.ones(1, 4), np.array([[2.0, 4, 8, 1]]), [torch.tensor([1, 2, 3, 4])]],
    "permutations": [torch.tensor([[3, 2, 1, 0]]), np.array([[0, 1, 2, 3.0]])],
    "widths": [(3, 4, 2), np.array([3, 2]), torch.tensor([3, 1, 2]), range(2, 5)],
    "s": [np.array([3.0, 2.0, 1e-17]), torch.zeros(3), (1, 2, 3)], "checkpoints": [[], (0, 1, 5)],
    "shape": [torch.Size([3, 4]), [3, 7], np.array([9, 3])],
} | {name: ONES for name in ("seed", "n", "width", "mean", "std", "repeats", "max_samples", "level",
                             "share", "classes", "epochs", "batch_size", "lr", "bias_std")}
ENDLESS = {"epochs", "checkpoints", "repeats"}  # a large number is right there, and takes for ever


@st.composite
def arguments(draw, function):
    """Right ones, of which none to three are replaced by anything, others by other right ones."""
    right = FUNCTIONS[function]
    wrong = draw(st.sets(st.sampled_from(sorted(right)), max_size=3))
    found = {}
    for name, value in right.items():
        if name in wrong:
            usual = models if name == "model" else anything
            value = draw(usual if name in ENDLESS else st.one_of(usual, usual, anything, large))
        elif name == "model":
            value = MODELS[draw(st.sampled_from(RIGHT_MODELS))]()
        elif name in OTHERS:
            value = draw(st.sampled_from([value, value, *OTHERS[name]]))
        found[name] = value
    return found


def as_floats(x):
    """By NumPy and torch alone."""
    if isinstance(x, list):
        x = [as_floats(row) if isinstance(row, torch.Tensor | list) else row for row in x]
    array = x.detach().double().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)
    return torch.from_numpy(array.astype(np.float64))


def sample(given):
    x = as_floats(given["x"])
    return x.reshape(len(x), -1)


def head_of(given):
    if given.get("head") is None:
        return "softmax" if type(given["model"][-1]) is nn.Softmax else "identity"
    return str(given["head"])


def check_rank(dim, given):
    net, x, head = given["model"], sample(given), head_of(given)
    if dim.method == "svd":
        matrix = fd.jacobian(net, x, head=head).double().numpy()
        s = np.linalg.svd(matrix, compute_uv=False)
        assert abs(dim.value - (s > s[0] * max(matrix.shape) * 2.0**-52).sum()) <= 1
    elif dim.at == "parameters":
        assert dim.verified and dim.value == rational_rank(net, x, head)


def check_jacobian(matrix, given):
    net, x = given["model"], sample(given)
    assert matrix.shape == (len(x) * 2, sum(p.numel() for p in net.parameters()))
    assert torch.isfinite(matrix).all()
    if matrix.dtype == torch.float64:
        last = torch.cat([net(x[:1].detach()).detach()])  # d output / d last bias
        p = last.softmax(dim=1)[0] if head_of(given) == "softmax" and not isinstance(
            net[-1], nn.Softmax) else last[0]
        expected = torch.diag(p) - p[:, None] * p if head_of(given) == "softmax" else torch.eye(2)
        torch.testing.assert_close(matrix[:2, -2:], expected.double())


def check_evaluation(found, given):
    net, x, y = given["model"], sample(given), as_floats(given["y"]).long()
    dtype = next(net.parameters()).dtype
    layers = [layer for layer in net if not isinstance(layer, nn.Softmax)]
    out = nn.Sequential(*layers)(x.to(dtype)).detach()
    assert found == (nn.functional.cross_entropy(out, y).item(),
                     (out.argmax(dim=1) == y).double().mean().item())


def check_training(kept, given):
    assert kept[0].epoch == 0 and all(np.isfinite(c.loss) for c in kept)
    loss, accuracy = fd.evaluate(kept[-1].model, given["x"], given["y"])
    assert (loss, accuracy) == (kept[-1].loss, kept[-1].accuracy)


def check_full(dim, given):
    n = dim.samples
    x = fd.gaussian_inputs(n, 3, mean=given["mean"], std=given["std"], seed=given["seed"])
    if n <= 20:
        assert dim.value == rational_rank(given["model"], x, head_of(given))
    assert dim.value <= dim.bound


def check_noise(noisy, given):
    x = given["x"] if isinstance(given["x"], torch.Tensor) else as_floats(given["x"])
    x = x.detach() if x.is_floating_point() and x.itemsize > 1 else x.double()
    drawn = np.random.default_rng(int(given["seed"])).standard_normal(tuple(x.shape))
    noise = torch.from_numpy(np.asarray(drawn)).to(x.dtype)
    assert torch.equal(noisy, x + float(given["level"]) * noise)


def check_labels(y, given):
    rng, before = np.random.default_rng(int(given["seed"])), as_floats(given["y"]).long()
    chosen = rng.permutation(len(before))[: round(float(given["share"]) * len(before))]
    before[chosen] = torch.from_numpy(rng.integers(int(given["classes"]), size=len(chosen)))
    assert y.tolist() == before.tolist()


def check_count(rank, given):
    s = as_floats(given["s"]).numpy()
    least = s.max(initial=0) * max(map(int, given["shape"])) * 2.0**-52
    assert rank == ((s >= least) & (s > 0)).sum()


def check_samples(x, given):
    shape = (int(given["n"]), int(given["width"]))
    rng = np.random.default_rng(int(given["seed"]))
    assert np.array_equal(x, rng.normal(float(given["mean"]), float(given["std"]), size=shape))


def check_same_function(moved, given):
    x, net = X.to(next(moved.parameters()).dtype), given["model"]
    if x.dtype == torch.float64 and not isinstance(net[0], nn.Flatten):
        expected = net(x).detach()
        torch.testing.assert_close(moved(x).detach(), expected, rtol=1e-9, atol=1e-9)


CHECKS = {
    fd.batch_functional_dimension: check_rank,
    fd.explain: lambda why, given: check_rank(why.dimension, given | dict(method="exact")),
    fd.full_functional_dimension: check_full,
    fd.gaussian_inputs: check_samples,
    fd.jacobian: check_jacobian,
    fd.spectrum: lambda s, given: check_count(
        fd.numerical_rank(s, fd.jacobian(**given).shape),
        dict(s=np.linalg.svd(fd.jacobian(**given).double().numpy(), compute_uv=False),
             shape=fd.jacobian(**given).shape)),
    fd.numerical_rank: check_count,
    fd.activation_pattern: lambda pattern, given: check_signs(pattern, given),
    fd.dimension_bound: lambda bound, given: check_bound(bound, given),
    fd.rescale: check_same_function, fd.permute: check_same_function,
    fd.relu_mlp: lambda net, given: [
        pytest.fail(str(p)) for p in net.parameters() if not torch.isfinite(p).all()],
    fd.load_network: lambda net, given: pytest.fail("there is no such file"),
    fd.train: check_training, fd.evaluate: check_evaluation,
    fd.add_noise: check_noise, fd.randomize_labels: check_labels,
}


def check_signs(pattern, given):
    signs = [[sign > 0 for layer in point for sign in layer]
             for point in rational_signs(given["model"], sample(given))]
    assert pattern.tolist() == signs


def check_bound(bound, given):
    linears = [layer for layer in given["model"] if isinstance(layer, nn.Linear)]
    free = sum(p.numel() for p in given["model"].parameters())
    free -= sum(len(layer.weight) for layer in linears[:-1])
    softmax = head_of(given) == "softmax"
    free -= softmax * (linears[-1].weight.shape[1] + 1)
    n = given["n"]
    assert bound == (free if n is None else min(int(n) * (2 - softmax), free))


def outcome(function, given):
    """Fails unless the result is right, or the error ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = function(**given)
        except ERRORS as error:
            names = "|".join(inspect.signature(function).parameters)
            place = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
            assert re.match(rf"({names})\b", str(error)), f"{type(error).__name__}: {error}"
            assert HOME in place.parents, f"raised in {place}: {error}"
            return
        CHECKS[function](result, given)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_anything_gives_the_right_result_or_an_error_that_names_the_argument(
        monkeypatch, function):
    class Free:
        available = 3 * 10**8  # what is larger is refused here, and would take long

    monkeypatch.setattr(psutil, "virtual_memory", Free)

    @settings(max_examples=INPUTS, derandomize=INPUTS < 100,
              suppress_health_check=list(HealthCheck), database=None)
    @given(arguments(function))
    def fuzz(given):
        outcome(function, given)

    fuzz()

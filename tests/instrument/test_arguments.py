"""Numbers, arrays, devices and sizes of every kind: the right value, or what to do instead."""

import time

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from helpers import exact
from torch import nn

import fdimlib as fd
from fdimlib import validation

NET = fd.relu_mlp([3, 4, 2], seed=0, bias_std=1.0)
X = fd.gaussian_inputs(6, 3)


# Hidden values are not used

@pytest.mark.parametrize("x", [
    np.ma.masked_array(X.numpy(), mask=np.eye(6, 3)), np.ma.masked_array(X.numpy()),
    [np.ma.masked_array(row, mask=[0, 0, 1]) for row in X.numpy()],
])
@pytest.mark.parametrize("call", [
    fd.batch_functional_dimension, fd.activation_pattern, fd.jacobian, fd.spectrum, fd.explain,
])
def test_masked_arrays_are_refused_as_samples(call, x):
    with pytest.raises(ValueError, match=r"^x: found a masked array; .*filled\(value\)"):
        call(NET, x)


def test_masked_arrays_are_refused_everywhere_else():
    masked = np.ma.masked_array([1.0, 0.5, 0.0], mask=[0, 1, 0])
    labels = np.ma.masked_array([0, 1, 0, 1, 0, 1], mask=[0, 1, 0, 0, 0, 0])
    for name, call in {
        "s": lambda: fd.numerical_rank(masked, (3, 3)),
        "factors": lambda: fd.rescale(NET, [np.ma.masked_array(np.ones(4), mask=[1, 0, 0, 0])]),
        "permutations": lambda: fd.permute(NET, [np.ma.masked_array([0, 1, 2, 3])]),
        "y": lambda: fd.train(NET, X, labels, epochs=1),
        "x": lambda: fd.evaluate(NET, np.ma.masked_array(X.numpy()), [0] * 6),
        "n": lambda: fd.dimension_bound(NET, np.ma.masked_array(3, mask=True)),
    }.items():
        with pytest.raises(ValueError, match=f"^{name}: found"):
            call()
    with pytest.raises(ValueError, match=r"^x: found torch\.masked.*MaskedTensor.*ordinary"):
        fd.jacobian(NET, torch.masked.masked_tensor(X, torch.ones_like(X).bool()))


# Numbers

@pytest.mark.parametrize("s, shape, message", [
    ([float("nan"), 1.0], (2, 2), r"^s is nan at \[0\]"),
    ([float("inf"), 1.0], (2, 2), r"^s is inf at \[0\]"),
    ([1.0, -1e-9], (2, 2), r"^s: found shape \(2,\), down to -1e-09; .* not negative"),
    ([2.0] * 4, (3, 5), r"^s: found 4 numbers; a matrix of shape 3 × 5 has 3 singular values"),
    ([2.0, 1.0], (1, 5), r"^s: found 2 numbers; a matrix of shape 1 × 5 has 1"),
    ([[2.0, 1.0]], (2, 2), r"^s: found shape \(1, 2\)"),
    ([2.0, 1.0], (2, -2), r"^shape: found -2; give a whole number, at least 0"),
    ([2.0, 1.0], (2, 2.5), r"^shape: found 2.5"),
    ([2.0, 1.0], (2, 2, 2), r"^shape: found \(2, 2, 2\); give two numbers"),
    (["a", "b"], (2, 2), r"^s: found list of dtype <U1"),
])
def test_numerical_rank_refuses_what_no_matrix_has(s, shape, message):
    with pytest.raises(ValueError, match=message):
        fd.numerical_rank(s, shape)
    with pytest.raises(TypeError, match=r"^shape: found 4; give a sequence"):
        fd.numerical_rank([1.0], 4)


def test_singular_values_that_are_0_may_be_left_out():
    """Those of the rows or columns that are not 0, with the tolerance of the whole matrix."""
    assert fd.numerical_rank([2.0, 1.0, 1e-13], (600, 6514)) == 2
    assert fd.numerical_rank([2.0, 1.0, 1e-13], (3, 3)) == 3


def test_numerical_rank_does_not_depend_on_the_order_of_the_singular_values():
    """Some routines give them ascending."""
    assert fd.numerical_rank([1e-17, 1.0, 2.0], (3, 5)) == 2
    assert fd.numerical_rank(torch.tensor([2.0, 1.0], requires_grad=True), np.array([2, 9])) == 2
    assert fd.numerical_rank(np.zeros(2), torch.Size([2, 4])) == 0


@pytest.mark.parametrize("one", [1, 1.0, np.int64(1), np.uint8(1), np.float32(1), np.array(1),
                                 torch.tensor(1), torch.tensor(1.0)])
def test_whole_numbers_of_every_type_are_the_number_they_are(one):
    assert torch.equal(fd.relu_mlp([2, one, 2], seed=one)[0].weight,
                       fd.relu_mlp([2, 1, 2], seed=1)[0].weight)
    assert torch.equal(fd.gaussian_inputs(one, 5, seed=one), fd.gaussian_inputs(1, 5, seed=1))
    some, other = (fd.batch_functional_dimension(NET, X, seed=seed, repeats=seed)
                   for seed in (one, 1))
    assert some == other and type(some.value) is int
    assert fd.dimension_bound(NET, one) == 2
    assert fd.full_functional_dimension(NET, max_samples=one, seed=one, progress=False).value == 2


NUMBERS = [  # name, the call with this argument
    ("seed", lambda v: fd.relu_mlp([2, 2], seed=v)),
    ("widths", lambda v: fd.relu_mlp([2, v])),
    ("bias_std", lambda v: fd.relu_mlp([2, 2], bias_std=v)),
    ("seed", lambda v: fd.gaussian_inputs(2, 2, seed=v)),
    ("n", lambda v: fd.gaussian_inputs(v, 2)),
    ("width", lambda v: fd.gaussian_inputs(2, v)),
    ("mean", lambda v: fd.gaussian_inputs(2, 2, mean=v)),
    ("std", lambda v: fd.gaussian_inputs(2, 2, std=v)),
    ("n", lambda v: fd.dimension_bound(NET, v)),
    ("repeats", lambda v: fd.batch_functional_dimension(NET, X, repeats=v)),
    ("seed", lambda v: fd.batch_functional_dimension(NET, X, seed=v)),
    ("seed", lambda v: fd.full_functional_dimension(NET, seed=v)),
    ("max_samples", lambda v: fd.full_functional_dimension(NET, max_samples=v)),
    ("mean", lambda v: fd.full_functional_dimension(NET, mean=v)),
    ("epochs", lambda v: fd.train(NET, X, [0] * 6, epochs=v)),
    ("checkpoints", lambda v: fd.train(NET, X, [0] * 6, checkpoints=[v])),
    ("lr", lambda v: fd.train(NET, X, [0] * 6, lr=v)),
    ("batch_size", lambda v: fd.train(NET, X, [0] * 6, batch_size=v)),
    ("seed", lambda v: fd.train(NET, X, [0] * 6, seed=v)),
    ("level", lambda v: fd.add_noise(X, v)),
    ("seed", lambda v: fd.add_noise(X, 1.0, seed=v)),
    ("share", lambda v: fd.randomize_labels(torch.zeros(4).long(), v)),
    ("classes", lambda v: fd.randomize_labels(torch.zeros(4).long(), 0.5, classes=v)),
    ("seed", lambda v: fd.randomize_labels(torch.zeros(4).long(), 0.5, seed=v)),
]


@pytest.mark.parametrize("name, call", NUMBERS)
@pytest.mark.parametrize("value", ["1", float("nan"), float("inf"), 1j, [1], True, b"1", 1 << 65],
                         ids=repr)
def test_what_is_no_number_is_refused_by_name(name, call, value):
    if value == 1 << 65 and name in {"mean", "lr", "n", "repeats", "epochs", "checkpoints",
                                     "batch_size", "max_samples", "level", "bias_std", "std"}:
        pytest.skip("large, but a number")
    with pytest.raises((ValueError, TypeError, MemoryError), match=f"^{name}: "):
        call(value)


def test_a_long_value_is_shortened_in_the_message():
    with pytest.raises(ValueError) as raised:
        fd.relu_mlp([3, list(range(10**5))])
    assert len(str(raised.value)) < 120


# Arrays

def test_tensors_in_lists_are_read_with_or_without_gradients_in_any_precision():
    net, x = fd.relu_mlp([3, 4, 2], seed=0, bias_std=1.0), X.float().bfloat16()
    rows = [row.clone().requires_grad_() for row in x]
    expected = exact(net, x)
    assert exact(net, rows) == exact(net, tuple(rows)) == exact(net, [list(r) for r in rows])
    assert exact(net, [row.detach() for row in rows]) == expected
    assert torch.equal(fd.jacobian(net, rows), fd.jacobian(net, x))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make, message", [
    (lambda: torch.nested.nested_tensor([torch.ones(3), torch.ones(3)]),
     r"^x: found a nested tensor; .*torch\.stack\(x\.unbind\(\)\)"),
    (lambda: torch.nested.nested_tensor([torch.ones(3)], layout=torch.jagged),
     r"^x: found a nested tensor"),
    (lambda: torch.quantize_per_tensor(torch.ones(2, 3), 0.1, 0, torch.quint8),
     r"^x: found a quantised tensor of dtype torch\.quint8; .*x\.dequantize\(\)"),
    (lambda: torch.ones(2, 3, device="meta"), r"^x: found a tensor on the meta device"),
    (lambda: [torch.ones(3, device="meta")], r"^x: found a tensor on the meta device"),
    (lambda: pd.DataFrame({"a": [1, 2], "b": [3, 4], "c": [5, 6]}, dtype="Int64").astype(object),
     r"^x: found pandas.* of dtype object; .*x\.to_numpy\(float\)"),
    (lambda: pd.DataFrame({"a": ["u", "v"], "b": [3, 4], "c": [5, 6]}),
     r"^x: found pandas.*to_numpy\(float\), where every column holds numbers"),
    (lambda: {"a": 1}, r"^x: found dict of dtype object"),
    (lambda: "text", r"^x: found str of dtype <U4"),
    (lambda: None, r"^x: found NoneType of dtype object"),
    (lambda: NET, r"^x: found torch\.nn\.modules\.container\.Sequential of dtype object"),
])
def test_what_is_no_array_of_numbers_says_what_to_do(make, message):
    with pytest.raises(ValueError, match=message):
        fd.batch_functional_dimension(NET, make())


def test_data_frames_are_read():
    frame = pd.DataFrame(X.numpy(), columns=list("abc"))
    assert exact(NET, frame) == exact(NET, X) == exact(NET, frame.astype("Float64").to_numpy(float))


@pytest.mark.parametrize("labels", [
    [0, 1, 0, 1, 0, 1], np.array([0, 1] * 3, np.uint8), np.array([0, 1] * 3, np.uint64),
    torch.tensor([0, 1] * 3, dtype=torch.int8), pd.Series([0, 1] * 3), np.array([False, True] * 3),
])
def test_labels_of_every_integer_type_are_read(labels):
    expected = fd.evaluate(NET, X, torch.tensor([0, 1] * 3))
    assert fd.evaluate(NET, X, labels) == fd.evaluate(NET, X.tolist(), labels) == expected
    assert fd.train(NET, X, labels, epochs=1, progress=False)[0].loss == expected[0]


@pytest.mark.parametrize("labels, message", [
    (["0"] * 6, r"^y: found list of dtype <U1"), ([0] * 5, r"^y: found shape \(5,\)"),
    ([0.0] * 6, r"^y: found shape .* give 6 integer labels from 0 to 1"), ([2] * 6, "2 to 2"),
    ([-1] * 6, "-1 to -1"), (torch.zeros(6, device="meta"), r"^y: found a tensor on the meta"),
])
@pytest.mark.parametrize("call", [fd.train, fd.evaluate])
def test_labels_are_checked(call, labels, message):
    with pytest.raises(ValueError, match=message):
        call(NET, X, labels)


def test_inputs_that_overflow_in_the_networks_precision_are_told():
    net = fd.relu_mlp([3, 4, 2]).half()
    for call in (lambda: fd.jacobian(net, 1e6 * X), lambda: fd.evaluate(net, 1e6 * X, [0] * 6)):
        with pytest.raises(ValueError, match=r"^x, in the network's torch\.float16, is -?inf at"):
            call()
    assert exact(net, 1e6 * X) == 12


def test_rescaling_by_factors_in_a_list_is_not_rounded_to_the_default_precision():
    third, = fd.rescale(NET, [[1 / 3] * 4])[0].bias[:1].tolist()
    assert third == NET[0].bias[0].item() * (1 / 3)


# Frozen parameters, counts

def test_frozen_parameters_count_and_the_sentence_says_so():
    net = fd.relu_mlp([3, 4, 2], seed=0, bias_std=1.0)
    net[0].requires_grad_(False)
    dim, free = (fd.batch_functional_dimension(n, X) for n in (net, NET))
    assert (dim.value, dim.frozen, free.frozen) == (free.value, 16, 0)
    assert ", P = 26, 16 of them frozen and counted too; exact" in str(dim)
    assert "frozen" not in str(free)


def test_training_leaves_frozen_parameters_as_they_are():
    net = nn.Sequential(*fd.relu_mlp([3, 4, 2], seed=0))
    net[0].requires_grad_(False)
    with torch.no_grad():
        net[0].weight.add_(2.0**-40)  # off the grid of the others
    after = fd.train(net, X, [0, 1] * 3, epochs=3, progress=False)[-1].model
    assert torch.equal(after[0].weight, net[0].weight)
    assert not torch.equal(after[2].weight, net[2].weight)
    with pytest.raises(ValueError, match=r"^model: all its parameters are frozen"):
        fd.train(net.requires_grad_(False), X, [0, 1] * 3, epochs=1)


def test_a_count_above_the_bound_says_that_it_is_no_rank():
    net, x = fd.relu_mlp([784, 30, 10], seed=0).float(), fd.gaussian_inputs(20)
    dim = fd.batch_functional_dimension(net, x, head="softmax", method="svd")
    assert dim.value > dim.bound == 180
    assert str(dim).startswith(f"no rank of Df_θ(X): a count of {dim.value}, but the rank is at "
                               "most 180 at θ (softmax head, n = 20, P = 23,860; numerical")


# Sizes

LARGE = [
    ("model", lambda: fd.full_functional_dimension(WIDE)),
    ("model", lambda: fd.full_functional_dimension(DEEP, head="softmax")),
    ("x", lambda: fd.batch_functional_dimension(DEEP, MANY)),
    ("x", lambda: fd.batch_functional_dimension(DEEP, MANY, method="svd")),
    ("x", lambda: fd.explain(DEEP, MANY)), ("x", lambda: fd.jacobian(DEEP, MANY)),
    ("x", lambda: fd.spectrum(DEEP, MANY)), ("x", lambda: fd.activation_pattern(DEEP, MANY)),
    ("n", lambda: fd.gaussian_inputs(10**7)), ("widths", lambda: fd.relu_mlp([10**5, 10**5])),
]
WIDE, DEEP = fd.relu_mlp([784, 128, 10]), fd.relu_mlp([784, 512, 512, 10])
MANY = np.zeros((60_000, 784), np.uint8)


@pytest.mark.parametrize("name, call", LARGE)
def test_what_does_not_fit_is_refused_at_once_before_anything_is_allocated(
        monkeypatch, name, call):
    class Free:
        available = 4 * 10**9 if name != "x" else 10**9

    monkeypatch.setattr(psutil, "virtual_memory", Free)
    peak = []
    monkeypatch.setattr(np.random, "default_rng", lambda *given: peak.append(given) or RNG)
    assert all(hasattr(fd, public) for public in fd.__all__)  # imported now, not while it is timed
    begin = time.process_time()
    with pytest.raises(MemoryError, match=rf"^{name}: .* needs [\d,]+ bytes, [\d,]+ are free on"):
        call()
    assert time.process_time() - begin < 0.3, "0.02 s on a quiet machine"
    assert set(peak) <= {(0,)}, "no sample is drawn, but the few inputs that compare the network"


RNG = np.random.default_rng(0)


def test_a_sample_drawn_in_parts_is_that_drawn_at_once(monkeypatch):
    at_once = np.random.default_rng(3).normal(0.5, 2.0, size=(40, 7))
    monkeypatch.setattr("fdimlib.gaussian.PART", 64)
    assert np.array_equal(fd.gaussian_inputs(40, 7, std=2.0, seed=3).numpy(), at_once)


# Devices

@pytest.mark.parametrize("device, error, message", [
    ("gpu", ValueError, "found 'gpu', which names no device of torch; use 'cpu'"),
    ("meta", ValueError, "found 'meta', which is not here or has no float64; use 'cpu'"),
    (0, TypeError, "found 0; give 'cpu', 'cuda'"), ("cuda:99", ValueError, "found 'cuda:99', but"),
    ("", ValueError, "found '', which names no"), (torch.float32, TypeError, "found torch.float32"),
])
@pytest.mark.parametrize("call", [
    fd.batch_functional_dimension, fd.explain,
    lambda net, x, device: fd.full_functional_dimension(net, device=device, max_samples=3),
])
def test_devices_that_are_not_there_are_refused(device, error, message, call):
    with pytest.raises(error) as raised:
        call(NET, X, device=device)
    assert str(raised.value).startswith(f"device: {message}")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_cuda_where_there_is_none_is_refused():
    with pytest.raises(ValueError, match=r"^device: found 'cuda', but torch sees no CUDA devices"):
        fd.batch_functional_dimension(NET, X, device="cuda")


def test_a_device_without_float64_computes_on_the_cpu_unless_asked_for(monkeypatch):
    mps = torch.device("mps")
    monkeypatch.setattr(validation, "has_float64", lambda device: device.type != "mps")
    assert validation.device_of("device", None, mps) == torch.device("cpu")
    assert validation.device_of("device", "cpu", mps) == torch.device("cpu")
    with pytest.raises(ValueError, match="found 'mps', which is not here or has no float64"):
        validation.device_of("device", "mps", torch.device("cpu"))


def everything():
    """What every public function gives, as far as numbers go."""
    net = fd.relu_mlp([3, 5, 2], seed=4, bias_std=1.0)
    x = fd.gaussian_inputs(12, 3, seed=5)
    trained = fd.train(net, x, [0, 1] * 6, epochs=2, seed=1, progress=False)[-1]
    yield from (net[0].weight, x, trained.model[0].weight, trained.loss)
    yield from fd.evaluate(net, x.tolist(), [0, 1] * 6)
    yield fd.batch_functional_dimension(net, x.tolist())
    yield fd.batch_functional_dimension(net, x, head="softmax", at="region", seed=1)
    yield fd.batch_functional_dimension(net.float(), x, method="svd")
    yield fd.jacobian(net, x)
    yield from fd.explain(net, x).terms
    yield fd.full_functional_dimension(net, max_samples=50, progress=False)
    yield fd.activation_pattern(net, x)
    yield fd.rescale(net, [[0.1] * 5])[0].weight
    yield fd.permute(net, [[4, 3, 2, 1, 0]])[0].weight
    yield fd.add_noise(x, 0.5, seed=1)
    yield fd.randomize_labels(torch.zeros(9, dtype=torch.int64, device="cpu"), 0.5, seed=1)
    yield fd.numerical_rank([1.0, 0.5], (2, 3))


@pytest.mark.parametrize("setting", [
    lambda: torch.device("meta"), lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", dtype=torch.float16),
])
def test_no_setting_of_the_caller_changes_a_result(setting):
    expected = list(everything())
    with setting():
        found = list(everything())
    for some, other in zip(found, expected, strict=True):
        if isinstance(some, torch.Tensor):
            assert some.device == other.device and torch.equal(some, other)
        else:
            assert some == other


def test_neither_does_the_default_precision():
    expected = list(everything())
    torch.set_default_dtype(torch.float64)
    try:
        found = list(everything())
    finally:
        torch.set_default_dtype(torch.float32)
    assert [str(value) for value in found] == [str(value) for value in expected]

"""The exact rank of modules of every make, against torch's own derivatives taken exactly.

`compositions` makes networks of small whole numbers, whose Jacobian torch computes without any
rounding; FLINT takes its rank over the rationals, and knows no bound.
"""

import copy
import os

import numpy as np
import pytest
import torch
from compositions import composition, of_small_numbers, oracle_rank, plain_jacobian
from helpers import exact
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import fdimlib as fd

NETWORKS = int(os.environ.get("FDIMLIB_FUZZ", "0")) or 120


def whole(*shape, seed=0, low=-2, high=3):
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed)).double()


class Function(nn.Module):
    """A module of some layers and a forward."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.layers = nn.ModuleDict(layers)
        self.function = forward

    def forward(self, x):
        return self.function(x, **self.layers)


@settings(max_examples=NETWORKS)
@given(st.integers(0, 10**6), st.integers(1, 6), st.sampled_from(["identity", "softmax"]))
def test_the_rank_of_random_compositions_is_that_of_their_exact_jacobian(seed, depth, head):
    model, x = composition(seed, depth)
    if list(model.parameters()):
        assert exact(model, x, head=head, progress=False) == oracle_rank(model, x, head)


# Each operator alone, between two layers that have parameters

def around(operator, width=6):
    return nn.Sequential(nn.Linear(width, width), operator, nn.Flatten(), nn.LazyLinear(3))


def on_maps(operator, channels=2):
    return nn.Sequential(nn.Conv2d(1, channels, 2), operator, nn.Flatten(), nn.LazyLinear(3))


def on_sequences(operator):
    return nn.Sequential(nn.Conv1d(2, 4, 2), operator, nn.Flatten(), nn.LazyLinear(3))


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


VECTORS = {
    "ReLU": nn.ReLU(), "LeakyReLU": nn.LeakyReLU(0.25), "PReLU": nn.PReLU(),
    "PReLU of each": nn.PReLU(6), "ReLU6": nn.ReLU6(), "Hardtanh": nn.Hardtanh(-2, 1),
    "BatchNorm": nn.BatchNorm1d(6), "BatchNorm without scale": nn.BatchNorm1d(6, affine=False),
    "Dropout": nn.Dropout(), "Identity": nn.Identity(), "Linear": nn.Linear(6, 4, bias=False),
    "Hardswish": nn.Hardswish(), "RReLU": nn.RReLU(0.25, 0.75), "nested": nn.Sequential(
        nn.Sequential(nn.ReLU(), nn.Linear(6, 2)), nn.ReLU()),
    **{name: Lambda(function) for name, function in {
        "abs": torch.abs, "clamp": lambda x: x.clamp(-1, 2), "clamp min": lambda x: x.clamp(min=1),
        "maximum": lambda x: torch.maximum(x, x.flip(1)), "negative": lambda x: -x,
        "minimum": lambda x: torch.minimum(x[:, :3], x[:, 3:]), "square": lambda x: x**2,
        "max over an axis": lambda x: x.reshape(-1, 2, 3).max(dim=2).values,
        "residual": lambda x: x + x.relu(), "difference": lambda x: 2 - x - x.relu() * 3,
        "cat": lambda x: torch.cat([x, x.relu()], 1), "stack": lambda x: torch.stack([x, -x], 2),
        "chunk": lambda x: x.chunk(2, 1)[1], "pad": lambda x: F.pad(x, (1, 2), value=2.0),
        "divided": lambda x: x / torch.tensor([1.0, 3, 5, -3, 0.5, 7]), "mean": lambda x: x.reshape(
            -1, 2, 3).mean(dim=2), "picked": lambda x: x[:, [3, 3, 0]], "in place": lambda x: (
                x.clone().add_(1).mul_(2).relu_()), "sum": lambda x: x.sum(dim=1, keepdim=True),
        "product of two": lambda x: x[:, :3] * x[:, 3:], "repeat": lambda x: x.repeat(1, 2),
        "halved precision": lambda x: x.to(torch.float64).type_as(x),
    }.items()},
}
MAPS = {
    "Conv2d": nn.Conv2d(2, 3, 2), "strided": nn.Conv2d(2, 3, 2, stride=2, padding=1, bias=False),
    "grouped": nn.Conv2d(2, 4, 2, groups=2), "dilated": nn.Conv2d(2, 2, 2, dilation=2),
    "same": nn.Conv2d(2, 2, 3, padding="same"), "circular": nn.Conv2d(
        2, 2, 3, padding=1, padding_mode="circular"), "1 × 1 far apart": nn.Conv2d(
            2, 2, 1, stride=3, padding=2), "BatchNorm2d": nn.BatchNorm2d(2),
    "PReLU": nn.PReLU(2), "MaxPool2d": nn.MaxPool2d(2), "overlapping": nn.MaxPool2d(
        3, stride=1, padding=1), "ceil": nn.MaxPool2d(3, stride=2, ceil_mode=True),
    "AvgPool2d": nn.AvgPool2d(2), "average with padding": nn.AvgPool2d(
        2, stride=3, padding=1, count_include_pad=False), "average, ceil": nn.AvgPool2d(
            2, stride=3, ceil_mode=True), "adaptive": nn.AdaptiveAvgPool2d(2),
    "adaptive, uneven": nn.AdaptiveAvgPool2d((3, 1)), "adaptive max": nn.AdaptiveMaxPool2d(2),
    "Dropout2d": nn.Dropout2d(), "Upsample": nn.Upsample(scale_factor=2),
    "ReflectionPad2d": nn.ReflectionPad2d(1), "PixelUnshuffle": nn.PixelUnshuffle(2),
    "sequence": Lambda(lambda x: x.flatten(2).mT), "mean over maps": Lambda(
        lambda x: x.mean(dim=(2, 3))), "permute": Lambda(lambda x: x.permute(0, 2, 3, 1)),
    "padded": Lambda(lambda x: F.pad(x, (1, 0, 2, -1))), "roll": Lambda(lambda x: x.roll(1, 2)),
}
SEQUENCES = {
    "Conv1d": nn.Conv1d(4, 3, 2, padding=1), "grouped": nn.Conv1d(4, 4, 3, groups=4),
    "BatchNorm1d": nn.BatchNorm1d(4), "Linear over a sequence": nn.Linear(4, 3),
    "transposed": Lambda(lambda x: x.mT), "batch in the middle": Lambda(
        lambda x: x.permute(2, 0, 1).relu().permute(1, 0, 2)),
}
ALONE = {
    **{f"{name}, vectors": (lambda op=op: around(copy.deepcopy(op)), (6,))
       for name, op in VECTORS.items()},
    **{f"{name}, maps": (lambda op=op: on_maps(copy.deepcopy(op)), (1, 5, 5))
       for name, op in MAPS.items()},
    **{f"{name}, sequences": (lambda op=op: on_sequences(copy.deepcopy(op)), (2, 5))
       for name, op in SEQUENCES.items()},
}


def agrees_with_svd(model, x, head="identity"):
    """Where the singular values leave a wide gap, which floating point can see."""
    s = torch.linalg.svdvals(plain_jacobian(model, x))
    rank = exact(model, x, head=head)
    assert rank == len(s) or s[rank] < 1e-10 * s[0], s[rank - 1 : rank + 1]
    assert s[rank - 1] > 1e-7 * s[0], s[rank - 1 : rank + 1]


@pytest.mark.parametrize("case", ALONE)
def test_each_operator_alone(case):
    make, shape = ALONE[case]
    torch.manual_seed(0)
    x = whole(5, *shape)
    model = make()
    model.eval()(x.float())
    dyadic = not any(word in case for word in ("divided", "mean", "uneven", "padding", "Hardswish"))
    if dyadic:
        model = of_small_numbers(model, 0).double()
        assert exact(model, x) == oracle_rank(model, x)
    for p in model.parameters():
        nn.init.normal_(p)
    agrees_with_svd(model.double(), x + 0.1 * torch.randn(x.shape, dtype=torch.float64))


# What would be wrong if it were taken for a plain network

def test_a_tied_weight_counts_once_and_its_rank_exceeds_what_a_rescaling_would_leave():
    """Linear, ReLU, the same Linear: H rescalings would be subtracted, and none is there."""
    layer = nn.Linear(3, 3)
    tied = of_small_numbers(nn.Sequential(layer, nn.ReLU(), layer), 3).double()
    x = torch.cat([whole(40, 3, seed=1), whole(40, 3, seed=2) * 0.5])
    dim = fd.batch_functional_dimension(tied, x)
    assert dim.parameters == dim.bound == 12
    assert int(dim) == oracle_rank(tied, x) == 12 and dim.verified


def with_token(x, a, b):
    token = a.weight.expand(x.shape[0], 1, 2)
    return b(torch.cat([token, x.reshape(-1, 2, 2)], 1)).relu().flatten(1)


def of_parameter(x, a, b):
    return b(a.weight[0].expand(x.shape[0], 1, 4)).relu().flatten(1) * x[:, :2].relu()


TIED = {
    "a layer used twice": lambda: Function(lambda x, a: a(a(x).relu()), a=nn.Linear(4, 4)),
    "an autoencoder with a transposed weight": lambda: Function(
        lambda x, a: F.linear(a(x).relu(), a.weight.T), a=nn.Linear(4, 2)),
    "a weight and a part of it": lambda: Function(
        lambda x, a: F.linear(a(x).relu(), a.weight[:2]), a=nn.Linear(4, 4)),
    "a residual of a layer with itself": lambda: Function(lambda x, a: a(x) - a(x), a=nn.Linear(
        4, 4)),
    "twice the same": lambda: Function(lambda x, a: a(x) + a(x), a=nn.Linear(4, 3)),
    "a convolution at two depths": lambda: Function(
        lambda x, a: a(a(x.reshape(-1, 1, 2, 2)).relu()).flatten(1), a=nn.Conv2d(
            1, 1, 3, padding=1)),
    "a bias shared by two layers": lambda: Function(
        lambda x, a, b: F.linear(a(x).relu(), b.weight, a.bias), a=nn.Linear(4, 3),
        b=nn.Linear(3, 3, bias=False)),
    "a layer of a parameter": lambda: Function(of_parameter, a=nn.Linear(4, 1), b=nn.Linear(4, 2)),
    "a rectified weight": lambda: Function(
        lambda x, a: F.linear(x, a.weight.relu(), a.bias), a=nn.Linear(4, 3)),
    "a token before a sequence": lambda: Function(with_token, a=nn.Linear(2, 1, bias=False),
                                                  b=nn.Linear(2, 2)),
    "a masked weight": lambda: Function(
        lambda x, a: F.linear(x, a.weight * torch.ones(3, 4).triu().to(x), a.bias),
        a=nn.Linear(4, 3)),
}


@pytest.mark.parametrize("case", TIED)
def test_parameters_used_several_times_are_one_each(case):
    model = of_small_numbers(TIED[case](), 5).double()
    x = whole(12, 4, seed=3)
    assert exact(model, x) == oracle_rank(model, x)


def small_cnn(**options):
    torch.manual_seed(options.pop("seed", 0))
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2),
                        nn.Conv2d(3, 4, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                        nn.Linear(4, 3))
    return net.double().eval()


def test_a_dead_channel_takes_its_weights_with_it():
    net, x = small_cnn(), torch.randn(30, 1, 8, 8, dtype=torch.float64)
    whole_rank = exact(net, x)
    with torch.no_grad():
        net[1].bias[0] = -1000
    assert exact(net, x) < whole_rank
    agrees_with_svd(net, x)


def test_a_batch_norm_whose_scale_is_0():
    net, x = small_cnn(), torch.randn(30, 1, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        net[1].weight[1] = 0
    agrees_with_svd(net, x)


def test_inputs_that_repeat_add_nothing():
    net, x = small_cnn(), torch.randn(4, 1, 8, 8, dtype=torch.float64)
    assert exact(net, torch.cat([x, x[:2], x])) == exact(net, x)


def test_a_constant_image_ties_everywhere_and_is_regular():
    """Every window of max-pooling ties, between the same functions of the parameters."""
    net = small_cnn()
    x = torch.full((3, 1, 8, 8), 0.5) * torch.arange(1, 4).reshape(3, 1, 1, 1)
    dim = fd.batch_functional_dimension(net, x)
    assert dim.regular and int(dim) == oracle_rank_mod(net, x)


def oracle_rank_mod(net, x):
    """By the singular values, which tie without harm here."""
    s = torch.linalg.svdvals(plain_jacobian(net, x))
    return int((s > 1e-9 * s[0]).sum())


def test_ties_between_zeros_of_inactive_units_are_regular():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                        nn.Linear(8, 2)).double()
    with torch.no_grad():
        net[0].weight.fill_(1.0)
        net[0].bias.fill_(-1.0)
    x = torch.zeros(2, 1, 4, 4, dtype=torch.float64)
    x[0, 0, 0, 0] = 3.0
    assert fd.batch_functional_dimension(net, x).regular


def test_ties_between_different_functions_are_counted():
    net = nn.Sequential(nn.Unflatten(1, (1, 1, 2)), nn.Conv2d(1, 1, 1, bias=False),
                        nn.MaxPool2d((1, 2)), nn.Flatten(), nn.Linear(1, 1)).double()
    x = torch.tensor([[2.0, 1.0], [3.0, 3.0]])  # equal inputs: the same function of the weight
    assert fd.batch_functional_dimension(net, x).regular
    two = Function(lambda x, a, b: torch.maximum(a(x), b(x)), a=nn.Linear(2, 1, bias=False),
                   b=nn.Linear(2, 1, bias=False)).double()
    with torch.no_grad():
        two.layers["a"].weight.copy_(torch.tensor([[1.0, 0.0]]))
        two.layers["b"].weight.copy_(torch.tensor([[0.0, 1.0]]))
    dim = fd.batch_functional_dimension(two, x)
    assert dim.zero_preactivations == 1 and "not regular: 1 " in str(dim)


def test_pre_activations_at_0_are_counted_where_parameters_could_move_them():
    net = Function(lambda x, a: a(x).relu().relu(), a=nn.Linear(2, 2)).double()
    with torch.no_grad():
        net.layers["a"].weight.copy_(torch.tensor([[1.0, -1.0], [1.0, 1.0]]))
        net.layers["a"].bias.zero_()
    dim = fd.batch_functional_dimension(net, torch.tensor([[1.0, 1.0], [2.0, 1.0]]))
    assert dim.zero_preactivations == 1  # and not 2: relu of an inactive unit's 0 stays 0


# Invariance

@given(st.integers(0, 500), st.integers(-3, 4))
def test_rescaling_and_permuting_channels_changes_nothing(seed, power):
    net, x = small_cnn(seed=seed), whole(6, 1, 8, 8, seed=seed)
    moved = copy.deepcopy(net)
    order = torch.randperm(3, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for name in ("weight", "bias"):
            getattr(moved[0], name).copy_(getattr(net[0], name)[order])
            getattr(moved[1], name).copy_(getattr(net[1], name)[order] * 2.0**power)
        moved[1].running_mean.copy_(net[1].running_mean[order])
        moved[1].running_var.copy_(net[1].running_var[order])
        moved[4].weight.copy_(net[4].weight[:, order] / 2.0**power)
    assert torch.allclose(moved(x), net(x))
    assert exact(moved, x) == exact(net, x)


def test_no_seed_no_prime_and_no_panel_changes_the_rank(monkeypatch):
    net, x = small_cnn(), torch.randn(40, 1, 8, 8, dtype=torch.float64)
    rank = exact(net, x)
    assert {exact(net, x, seed=seed) for seed in range(3)} == {exact(net, x, repeats=3)} == {rank}
    monkeypatch.setattr("fdimlib.program_rows.PANEL", 7)
    assert exact(net, x) == rank
    monkeypatch.setattr("fdimlib.affine.PART", 10)
    assert exact(net, x) == rank
    monkeypatch.setattr("fdimlib.decisions.AT_ONCE", 1)
    assert exact(net, x) == rank


@pytest.mark.parametrize("pairs", [True, False])
def test_pairs_of_positions_and_explicit_rows_give_the_same(monkeypatch, pairs):
    monkeypatch.setattr("fdimlib.affine.Affine.by_positions", lambda self, rows: pairs)
    for seed in range(12):
        model, x = composition(seed, 4)
        if list(model.parameters()):
            assert exact(model, x) == oracle_rank(model, x)


def test_a_prime_by_which_the_network_divides_is_not_taken(monkeypatch):
    monkeypatch.setattr("fdimlib.draws.Draws.primes", lambda self: iter([4194301, 4194287]))
    net = Function(lambda x, a: a(x).relu() / 4194301.0, a=nn.Linear(4, 2)).double()
    dim = fd.batch_functional_dimension(net, whole(5, 4))
    assert dim.primes == (4194287,) and dim.verified


# Layers in disguise

DISGUISES = {
    "nested": lambda a, b: nn.Sequential(nn.Sequential(a, nn.ReLU()), b),
    "dropout": lambda a, b: nn.Sequential(a, nn.Dropout(), nn.ReLU(), nn.Dropout(), b),
    "identity": lambda a, b: nn.Sequential(nn.Identity(), a, nn.ReLU(), b, nn.Identity()),
    "a module of one's own": lambda a, b: Function(lambda x, a, b: b(F.relu(a(x))), a=a, b=b),
    "in place": lambda a, b: Function(lambda x, a, b: b(a(x).relu_()), a=a, b=b),
}


@pytest.mark.parametrize("head", ["identity", "softmax"])
@pytest.mark.parametrize("case", DISGUISES)
def test_layers_in_disguise_are_the_layers(case, head):
    net = fd.relu_mlp([3, 4, 2], seed=0, bias_std=1.0)
    x = fd.gaussian_inputs(9, 3)
    disguised = DISGUISES[case](net[0], net[2]).eval()
    assert fd.batch_functional_dimension(disguised, x, head=head) == \
        fd.batch_functional_dimension(net, x, head=head)


def test_log_softmax_is_a_softmax_head():
    net, x = fd.relu_mlp([3, 4, 3], seed=0, bias_std=1.0), fd.gaussian_inputs(9, 3)
    log = nn.Sequential(*net, nn.LogSoftmax(dim=1))
    assert fd.batch_functional_dimension(log, x) == \
        fd.batch_functional_dimension(nn.Sequential(*net, nn.Softmax(dim=1)), x)
    assert exact(log, x, head="identity") == exact(net, x)


def test_a_softmax_over_an_axis_of_several_outputs():
    """Each position of a sequence has a softmax of its own."""
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2), nn.Softmax(dim=-1)).double()
    x = torch.randn(4, 5, 3, dtype=torch.float64)
    agrees_with_svd(net, x, head=None)


# Which parameters

def test_the_parameters_that_count_are_those_asked_for():
    net, x = small_cnn(), torch.randn(30, 1, 8, 8, dtype=torch.float64)
    net[0].requires_grad_(False)
    trainable = fd.batch_functional_dimension(net, x, parameters="trainable")
    names = [name for name, p in net.named_parameters() if p.requires_grad]
    assert trainable == fd.batch_functional_dimension(net, x, parameters=names)
    assert trainable.parameters == sum(p.numel() for p in net.parameters() if p.requires_grad)
    assert trainable.bound <= trainable.parameters and trainable.frozen == 0
    s = torch.linalg.svdvals(plain_jacobian(net, x, names))
    assert int(trainable) == int((s > 1e-10 * s[0]).sum())
    assert fd.jacobian(net, x, parameters=names).shape == (90, trainable.parameters)
    assert fd.batch_functional_dimension(net, x).frozen == 30


def test_a_plain_network_with_its_first_layer_frozen():
    net, x = fd.relu_mlp([3, 4, 2], seed=0, bias_std=1.0), fd.gaussian_inputs(9, 3)
    matrix = fd.jacobian(net, x)
    found = exact(net, x, parameters=["2.weight", "2.bias"])
    assert found == int(torch.linalg.matrix_rank(matrix[:, 16:]))
    assert torch.equal(fd.jacobian(net, x, parameters=["2.weight", "2.bias"]), matrix[:, 16:])


def test_names_that_are_none_are_refused():
    net, x = fd.relu_mlp([3, 4, 2]), fd.gaussian_inputs(2, 3)
    with pytest.raises(ValueError, match=r"^parameters: found 'a', .*0\.weight"):
        fd.batch_functional_dimension(net, x, parameters=["a"])
    with pytest.raises(ValueError, match=r"^parameters: found 'some'; use one of 'all', 'train"):
        fd.batch_functional_dimension(net, x, parameters="some")
    with pytest.raises(TypeError, match=r"^parameters: found 3; give a sequence"):
        fd.batch_functional_dimension(net, x, parameters=3)


# What cannot be read

def attention():
    return nn.MultiheadAttention(4, 2, batch_first=True)


REFUSED = {
    "GELU": (lambda: nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 2)),
             TypeError, r"aten\.gelu at 1: not piecewise polynomial; .*method=\"svd\" counts"),
    "inside": (lambda: nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Sigmoid())), TypeError,
               r"aten\.sigmoid at 0\.1: not piecewise polynomial"),
    "LayerNorm": (lambda: nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2)), TypeError,
                  r"aten\.layer_norm at 0: not piecewise"),
    "softmax inside": (lambda: nn.Sequential(nn.Softmax(1), nn.Linear(4, 2)), TypeError,
                       r"aten\.linear at 1: comes after a softmax"),
    "attention": (lambda: Function(lambda x, a: a(x[:, None], x[:, None], x[:, None])[0],
                                   a=attention()), TypeError, r"aten\.\w+ "),
    "training": (lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).train(), TypeError,
                 r"batch_norm at 1: .*call model\.eval\(\)"),
    "dropout": (lambda: nn.Sequential(nn.Linear(4, 4), nn.Dropout()).train(), TypeError,
                r"dropout at 1: .*call model\.eval\(\)"),
    "over samples": (lambda: Function(lambda x, a: a(x - x.mean(dim=0)), a=nn.Linear(4, 2)),
                     ValueError, r"mixes samples"),
    "turned round": (lambda: Function(lambda x, a: a(x.flip(0)), a=nn.Linear(4, 2)), ValueError,
                     r"mixes samples"),
    "the first sample": (lambda: Function(lambda x, a: a(x) + a(x[:1]), a=nn.Linear(4, 2)),
                         ValueError, r"mixes samples"),
    "by the number of samples": (lambda: Function(
        lambda x, a: a(x) * x.shape[0], a=nn.Linear(4, 2)), (TypeError, ValueError), r"samples"),
    "a plain number of samples": (lambda: Function(
        lambda x, a: a(x.reshape(len(x), -1)), a=nn.Linear(4, 2)), TypeError, r"not len\(x\)"),
    "a branch": (lambda: Function(lambda x, a: a(x) if x.sum() > 0 else x, a=nn.Linear(4, 4)),
                 TypeError, r"cannot be traced .*no branch on numbers"),
    "two outputs": (lambda: Function(lambda x, a: (a(x), x), a=nn.Linear(4, 4)), TypeError,
                    r"must give one tensor"),
    "a stale view": (lambda: Function(stale, a=nn.Linear(4, 4)), TypeError,
                     r"changed under another name"),
    "a part of a softmax": (lambda: Function(lambda x, a: a(x).softmax(1)[:, :2], a=nn.Linear(
        4, 3)), ValueError, r"a part of what its softmax"),
    "divided by numbers": (lambda: Function(lambda x, a: a(x) / a(x), a=nn.Linear(4, 3)), TypeError,
                           r"aten\.div in its forward: divides by numbers that vary"),
    "NaN": (lambda: nn.Sequential(nn.Conv1d(1, 1, 1), nn.Flatten()).apply(
        lambda m: [p.data.fill_(np.nan) for p in m.parameters()]), ValueError, r"0\.weight is nan"),
}


def stale(x, a):
    z = a(x)
    view = z[:, :2]
    z.relu_()
    return view + z[:, 2:]


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused_by_name_and_place(case):
    make, error, message = REFUSED[case]
    model = make()
    training = case in ("training", "dropout")
    with pytest.raises(error, match=rf"(?s)^model: .*{message}"):
        fd.batch_functional_dimension(model.train(training), whole(5, 4))


def test_what_is_missing_is_explained_of_layers_in_disguise_and_of_no_other_network():
    net, x = fd.relu_mlp([3, 4, 2], seed=0, bias_std=1.0), fd.gaussian_inputs(9, 3)
    assert fd.explain(nn.Sequential(nn.Identity(), *net), x) == fd.explain(net, x)
    with pytest.raises(TypeError, match=r"^model: what is missing is explained for Linear, ReLU"):
        fd.explain(small_cnn(), whole(3, 1, 8, 8))


def test_samples_that_a_module_does_not_take_are_refused():
    with pytest.raises(TypeError, match=r"^model: Sequential cannot be traced on samples of shape"):
        fd.batch_functional_dimension(small_cnn(), whole(5, 2, 8, 8))


@pytest.mark.parametrize("case", ["GELU", "attention"])
def test_singular_values_are_counted_of_every_module(case):
    model = REFUSED[case][0]().double().eval()
    x = torch.randn(3, 4, dtype=torch.float64)
    dim = fd.batch_functional_dimension(model, x, method="svd")
    s = torch.linalg.svdvals(plain_jacobian(model, x))
    assert int(dim) == fd.numerical_rank(s, (dim.samples * (len(s) // 3), dim.parameters))
    assert torch.allclose(fd.spectrum(model, x), s)
    assert torch.allclose(fd.jacobian(model, x), plain_jacobian(model, x))


def test_a_module_that_mixes_samples_has_no_rows_to_count():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.GELU())
    with pytest.raises(ValueError, match=r"^model: mixes samples.*model\.eval\(\)"):
        fd.jacobian(model, whole(5, 4).float())


def test_what_is_needed_is_refused_before_allocating():
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 26 * 26, 10))
    x = torch.zeros(1, 1, 28, 28).expand(10**7, 1, 28, 28)
    with pytest.raises(MemoryError, match=r"^x: .*needs [\d,]+ bytes"):
        fd.batch_functional_dimension(model, x)

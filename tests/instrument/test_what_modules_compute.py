"""A module that does not compute what its type says is no plain network, whatever changed it.

What it computes counts: its rank is that, or it is refused by the operator that stands in the way.
"""

import copy
import types

import pytest
import torch
from compositions import plain_jacobian
from helpers import exact, rational_rank
from torch import nn
from torch.nn.modules import module as torch_modules
from torch.nn.utils import parametrizations, prune

import fdimlib as fd

X = fd.gaussian_inputs(9, 3, seed=1)


def network():
    return fd.relu_mlp([3, 4, 2], seed=0, bias_std=1.0)


def changed(change):
    net = network()
    change(net)
    return net


def swap_forward(layer, function):
    layer.forward = function


def patched_call(net):
    """Another function by a method that no forward shows."""
    net[1]._call_impl = torch.tanh


def another_functional(net):
    """The class is right, and so is its forward; what it looks up is not."""
    net[1].__class__ = type("ReLU", (nn.ReLU,), {"forward": lambda self, x: x.tanh()})


def stealthy(net):
    net.__class__ = type("Sequential", (nn.Sequential,), {
        "__call__": lambda self, x: 2 * nn.Sequential.__call__(self, x)})


CHANGES = {
    "forward of ReLU": lambda net: swap_forward(net[1], torch.tanh),
    "forward of Linear": lambda net: swap_forward(net[0], lambda x: x[:, :1].expand(-1, 4)),
    "forward of the network": lambda net: swap_forward(net, lambda x: x),
    "a bound forward": lambda net: swap_forward(
        net[1], types.MethodType(lambda self, x: x.relu() ** 2, net[1])),
    "_call_impl": patched_call,
    "subclass of a layer": another_functional,
    "__call__ of a subclass": stealthy,
    "a forward hook": lambda net: net[0].register_forward_hook(lambda *given: 2 * given[-1]),
    "a forward pre-hook": lambda net: net.register_forward_pre_hook(lambda _, given: given),
}


@pytest.mark.parametrize("case", CHANGES)
@pytest.mark.parametrize("call", [
    fd.activation_pattern, lambda net, x: fd.dimension_bound(net),
    lambda net, x: fd.rescale(net, [[1.0] * 4]),
    lambda net, x: fd.full_functional_dimension(net, max_samples=5),
])
def test_a_changed_module_is_no_plain_network(case, call):
    with pytest.raises(TypeError, match=r"^model: .*(its output|unsupported layer)"):
        call(changed(CHANGES[case]), X)


def assert_what_it_computes_counts(net, x):
    """The rank of torch's own derivatives, or a refusal by the operator's name."""
    try:
        dim = fd.batch_functional_dimension(net, x)
    except TypeError as refused:
        assert "aten.tanh at 1: not piecewise polynomial" in str(refused)
        return
    matrix = plain_jacobian(net, x)
    s = torch.linalg.svdvals(matrix)
    assert dim.verified and int(dim) == int((s > 1e-9 * max(s[0], 1e-300)).sum())
    assert torch.allclose(fd.jacobian(net, x), matrix)


@pytest.mark.parametrize("case", CHANGES)
def test_of_a_changed_module_what_it_computes_counts(case):
    assert_what_it_computes_counts(changed(CHANGES[case]), X)


@pytest.mark.parametrize("register", [
    torch_modules.register_module_forward_hook, torch_modules.register_module_forward_pre_hook,
])
def test_hooks_registered_for_all_modules_are_seen(register):
    def scale(module, given, result=None):
        if isinstance(module, nn.ReLU):
            return 3 * (given[0] if result is None else result)

    handle = register(scale)
    try:
        with pytest.raises(TypeError, match=r"^model: .* registered for all modules"):
            fd.dimension_bound(network())
        assert_what_it_computes_counts(network(), X)
    finally:
        handle.remove()


@pytest.mark.parametrize("owner, name, other", [
    (nn.ReLU, "forward", lambda self, x: x.tanh()),
    (nn.Linear, "forward", lambda self, x: x @ self.weight.T),
    (nn.Sequential, "__call__", lambda self, x: -nn.Module.__call__(self, x)),
    (torch.nn.functional, "relu", lambda x, inplace=False: x.clamp(0, 1)),
    (torch.nn.functional, "linear", lambda x, weight, bias=None: 2 * (x @ weight.T)),
])
def test_patched_classes_and_functions_are_caught_by_what_comes_out(
        monkeypatch, owner, name, other):
    monkeypatch.setattr(owner, name, other, raising=False)
    with pytest.raises(TypeError, match=r"^model: its output is not what its layers give"):
        fd.dimension_bound(network())
    assert_what_it_computes_counts(network(), X)


def test_a_function_that_differs_at_the_sample_alone_is_caught_there(monkeypatch):
    """Random inputs hardly ever come above 1000; this sample does."""
    monkeypatch.setattr(nn.ReLU, "forward", lambda self, x: x.relu().clamp_max(1e4))
    assert exact(network(), X) == rational_rank(network(), X)
    assert_what_it_computes_counts(network(), 1e5 * X)


def test_what_cannot_be_called_in_float64_says_so(monkeypatch):
    monkeypatch.setattr(nn.ReLU, "forward", lambda self, x: x @ torch.ones(4, 4))
    with pytest.raises(TypeError, match=r"^model: cannot be called .*use plain layers"):
        fd.dimension_bound(network())
    with pytest.raises(TypeError, match=r"^model: cannot be called on inputs of shape"):
        fd.batch_functional_dimension(network(), X)


@pytest.mark.parametrize("scale", [2.0**-600, 1e-30, 1.0, 1e30, 2.0**600])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_rounding_underflow_and_overflow_are_no_other_function(scale, dtype):
    net = fd.relu_mlp([3, 30, 30, 2], seed=0, bias_std=1.0)
    with torch.no_grad():
        net[0].weight.mul_(scale)
    net = net.to(dtype)
    if all(torch.isfinite(p).all() for p in net.parameters()):
        assert exact(nn.Sequential(nn.Flatten(), *net, nn.Softmax(dim=1)), X) > 0


def test_sliced_weights_count_as_they_are():
    """Structured pruning by hand leaves `out_features` behind."""
    net, reference = network(), fd.relu_mlp([3, 2, 2])
    net[0].weight = nn.Parameter(net[0].weight[:2].detach().clone())
    net[0].bias = nn.Parameter(net[0].bias[:2].detach().clone())
    net[2].weight = nn.Parameter(net[2].weight[:, :2].detach().clone())
    reference.load_state_dict(net.state_dict())
    assert exact(net, X) == rational_rank(reference, X)
    assert fd.dimension_bound(net) == fd.dimension_bound(reference) == 2 * 3 + 2 + 2 * 2 + 2 - 2
    assert fd.activation_pattern(net, X).shape == (9, 2)


def test_a_bias_that_is_spread_over_the_outputs_is_refused():
    net = changed(lambda net: setattr(net[0], "bias", nn.Parameter(torch.zeros(1))))
    message = r"^model: bias of Linear at position 0 has shape \(1,\); it must be \(4,\)"
    with pytest.raises(ValueError, match=message):
        fd.dimension_bound(net.double())


@pytest.mark.parametrize("place", ["", "0", "1"])
def test_parameters_that_no_layer_uses_are_refused(place):
    net = network()
    net.get_submodule(place).register_parameter("scale", nn.Parameter(torch.ones(1)))
    with pytest.raises(TypeError, match=r"^model: .*has parameters scale.* not counted"):
        fd.dimension_bound(net)


def test_attributes_that_change_nothing_are_fine():
    net = network()
    net.name, net[1].inplace, net[0].note = "mine", True, [1]
    net[0].register_full_backward_hook(lambda *given: None)
    assert exact(net, X) == exact(network(), X)
    assert torch.equal(fd.jacobian(net, X), fd.jacobian(network(), X))


def test_a_network_compiled_in_place_is_read_without_compiling_it():
    net = network()
    net.compile(backend=lambda *given: pytest.fail("compiled"))
    assert exact(net, X) == exact(network(), X)


# Which memory cells are addressed

def from_one_buffer(layout):
    """Two layers without biases whose weights are parts of one buffer, (first, second)."""
    first, second = layout(torch.randn(6, 8, generator=torch.Generator().manual_seed(0)).double())
    net = nn.Sequential(nn.Linear(first.shape[1], len(first), bias=False), nn.ReLU(),
                        nn.Linear(second.shape[1], len(second), bias=False))
    net[0].weight, net[2].weight = nn.Parameter(first), nn.Parameter(second)
    return net


SEPARATE = {
    "column blocks": lambda buffer: (buffer[:, :3], buffer[:, 3:].T),
    "row blocks": lambda buffer: (buffer[:4, :6], buffer[4:, :4]),
    "every other column": lambda buffer: (buffer[:, ::2], buffer[:, 1::2].T),
    "transposed": lambda buffer: (buffer[:4, :4].T, buffer[4:, 4:]),
}


@pytest.mark.parametrize("case", SEPARATE)
def test_disjoint_parts_of_one_buffer_are_separate_parameters(case):
    net = from_one_buffer(SEPARATE[case])
    x = fd.gaussian_inputs(20, net[0].in_features, seed=2)
    copied = copy.deepcopy(net)
    for layer in copied[::2]:
        layer.weight = nn.Parameter(layer.weight.detach().clone().contiguous())
    assert exact(net, x) == exact(copied, x) == rational_rank(net, x)
    assert int(fd.batch_functional_dimension(net, x, method="svd")) == exact(net, x)


@pytest.mark.parametrize("layout", [
    lambda buffer: (buffer[:, :4], buffer[:, 3:].T),  # one column in common
    lambda buffer: (buffer[:, ::2], buffer.as_strided((2, 6), (1, 8), 6)),  # interleaved, one
    lambda buffer: (buffer[:3, :3], buffer[2:4, :3]),
])
def test_parts_of_one_buffer_with_a_cell_in_common_are_refused(layout):
    with pytest.raises(ValueError, match=r"^model: two layers share a parameter, or parts of one"):
        fd.dimension_bound(from_one_buffer(layout))


@pytest.mark.parametrize("weight", [
    torch.randn(1, 3).expand(4, 3), torch.randn(6).as_strided((4, 3), (1, 1)),
])
def test_a_parameter_whose_own_entries_share_cells_is_refused(weight):
    net = nn.Sequential(nn.Linear(3, 4, bias=False))
    net[0].weight = nn.Parameter(weight)
    with pytest.raises(ValueError, match=r"^model: entries of a parameter .*share memory.*clone"):
        fd.dimension_bound(net)


# What to do instead

def old(normalise, **options):
    with pytest.warns(FutureWarning):
        return nn.Sequential(normalise(nn.Linear(3, 2), **options))


UNDONE = {
    "parametrized": (
        lambda: nn.Sequential(parametrizations.orthogonal(nn.Linear(3, 2))),
        lambda net: nn.utils.parametrize.remove_parametrizations(net[0], "weight"),
        "torch.nn.utils.parametrize.remove_parametrizations(model[0], 'weight')"),
    "weight_norm": (
        lambda: old(nn.utils.weight_norm),
        lambda net: nn.utils.remove_weight_norm(net[0], "weight"),
        "torch.nn.utils.remove_weight_norm(model[0], 'weight')"),
    "spectral_norm": (
        lambda: nn.Sequential(nn.utils.spectral_norm(nn.Linear(3, 2))),
        lambda net: nn.utils.remove_spectral_norm(net[0], "weight"),
        "torch.nn.utils.remove_spectral_norm(model[0], 'weight')"),
    "pruning": (
        lambda: nn.Sequential(prune.l1_unstructured(nn.Linear(3, 2), "bias", amount=1)),
        lambda net: prune.remove(net[0], "bias"),
        "torch.nn.utils.prune.remove(model[0], 'bias') first; pruned entries then count"),
    "lazy": (
        lambda: nn.Sequential(nn.LazyLinear(2)), lambda net: net(X.float()),
        "model[0] is a LazyLinear without values yet; call the model once on a sample"),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("case", UNDONE)
def test_the_call_that_makes_the_parameters_ordinary_is_named_and_helps(case):
    make, undo, advice = UNDONE[case]
    net = make()
    with pytest.raises(TypeError) as raised:
        fd.batch_functional_dimension(net, X)
    assert str(raised.value).startswith("model: ") and advice in str(raised.value)
    undo(net)
    assert exact(net, X) == rational_rank(net, X) == 8


WRAPPED = {
    "torch.nn.parallel.data_parallel.DataParallel": (nn.DataParallel, "pass model.module"),
    "torch.optim.swa_utils.AveragedModel": (
        torch.optim.swa_utils.AveragedModel, "pass model.module"),
    "torch._dynamo.eval_frame.OptimizedModule": (torch.compile, "pass model._orig_mod"),
    "torch.fx.graph_module.GraphModule": (
        lambda net: __import__("torch.fx").fx.symbolic_trace(net),
        "pass the Sequential that was traced"),
    "torch.jit._script.ScriptModule": (
        lambda net: torch.jit.trace(net.float(), X.float()), "pass the Sequential that was"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", WRAPPED)
def test_wrappers_are_told_what_to_pass(name):
    wrap, advice = WRAPPED[name]
    with pytest.raises(TypeError) as raised:
        fd.dimension_bound(wrap(network()))
    assert str(raised.value).startswith(f"model: found {name}, which wraps a network; {advice}")


def test_classes_of_the_same_name_are_told_apart():
    quantised = torch.ao.nn.quantized.Linear(3, 2)
    with pytest.raises(TypeError, match=r"layer torch\.ao\.nn\.quantized\.[\w.]*\.Linear at .*"
                                        r"supported are torch\.nn\.Linear and"):
        fd.dimension_bound(nn.Sequential(quantised))
    with pytest.raises(TypeError, match=r"^model: found str, not a torch\.nn\.Sequential"):
        fd.dimension_bound("Sequential")
    with pytest.raises(TypeError, match=r"^model: weight of Linear .* meta device.*to_empty"):
        fd.dimension_bound(network().to("meta"))

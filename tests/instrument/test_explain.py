"""Where P − rank goes: every term against the kernel that it names, vector by vector."""

import flint
import pytest
import torch
from helpers import networks, rational_rank
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import fdimlib as fd
from fdimlib.oracle import modular_jacobian
from fdimlib.reading import read_inputs, read_network

P = 4194301


def images(values):
    """Residues of floating-point numbers, one at a time."""
    numbers = torch.as_tensor(values).detach().double().flatten().tolist()
    pairs = (number.as_integer_ratio() for number in numbers)
    return [numerator * pow(denominator, -1, P) % P for numerator, denominator in pairs]


def matrix(rows, columns):
    return flint.nmod_mat(len(rows), columns, [v for row in rows for v in row], P)


def layers_of(net, x, head):
    """(weight, bias, what comes in, pattern) of each layer, in floating point."""
    network = read_network(net, head)
    h, found = read_inputs(network, x), []
    for number, linear in enumerate(network.linears):
        weight, bias = linear.weight.double(), None if linear.bias is None else linear.bias.double()
        z = h @ weight.T + (0 if bias is None else bias)
        last = number == len(network.linears) - 1
        on = torch.ones_like(z, dtype=torch.bool) if last else z > 0
        found.append((weight, bias, h, on))
        h = z.clamp_min(0)
    return found


def kernel_vectors(net, x, head):
    """The directions that `fd.explain` claims, written out in all P coordinates, modulo P."""
    layers, vectors, places, start = layers_of(net, x, head), [], [], 0
    for weight, bias, _, _ in layers:
        places.append((start, start + weight.numel()))  # weights row by row, then biases
        start += weight.numel() + (0 if bias is None else len(bias))
    modular = [[images(row) for row in x.reshape(len(x), -1).double()]]
    for weight, bias, _, on in layers:
        rows = []
        for h, pattern in zip(modular[-1], on.tolist()):
            shift = [0] * len(weight) if bias is None else images(bias)
            z = [(sum(a * b for a, b in zip(images(w), h)) + b) % P for w, b in zip(weight, shift)]
            rows.append([value * on for value, on in zip(z, pattern)])
        modular.append(rows)

    def vector(entries):
        out = [0] * start
        for place, value in entries:
            out[place] = (out[place] + value) % P
        return out

    def at(layer, unit, column):
        """The coordinate of a weight, or of the bias where the column is one too far."""
        fan_in = layers[layer][0].shape[1]
        weights, biases = places[layer]
        return biases + unit if column == fan_in else weights + unit * fan_in + column

    for l, (weight, bias, _, on) in enumerate(layers):
        width = weight.shape[1] + (bias is not None)
        for unit in range(len(weight)):
            seen = [row + [1] * (bias is not None)
                    for row, active in zip(modular[l], on[:, unit].tolist()) if active]
            null, rank = matrix(seen or [[0] * width], width).nullspace()
            vectors += [vector((at(l, unit, c), int(null[c, k])) for c in range(width))
                        for k in range(rank)]
    for l, (weight, bias, _, on) in enumerate(layers[:-1]):
        after, after_bias = layers[l + 1][0], layers[l + 1][1]
        for i in range(len(weight)):
            partners = [j for j in range(len(weight)) if torch.equal(on[:, i], on[:, j])]
            biases = [[]] * len(weight) if bias is None else [[image] for image in images(bias)]
            incoming = [images(weight[j]) + biases[j] for j in partners]
            if bias is not None and after_bias is not None and on[:, i].all():
                partners.append(len(weight))
                incoming.append([0] * weight.shape[1] + [1])
            for j, values in zip(partners, incoming):
                back = [(at(l + 1, k, j), -value) for k, value in enumerate(images(after[:, i]))]
                vectors.append(vector([*((at(l, i, c), v) for c, v in enumerate(values)), *back]))
    if head == "softmax":
        weight, bias = layers[-1][:2]
        width = weight.shape[1] + (bias is not None)
        last = len(layers) - 1
        vectors += [vector((at(last, o, c), 1) for o in range(len(weight))) for c in range(width)]
    return matrix(vectors, start)


@given(networks(), st.sampled_from(["identity", "softmax"]))
def test_what_is_explained_is_the_dimension_of_a_subspace_of_the_kernel(case, head):
    net, x = case
    if not fd.batch_functional_dimension(net, x).regular:
        return  # the float pattern of this oracle would differ
    why = fd.explain(net, x, head=head)
    vectors = kernel_vectors(net, x, head)
    jacobian = modular_jacobian(net, x, P, head=head)
    product = matrix(jacobian.tolist(), jacobian.shape[1]) * vectors.transpose()
    nothing = matrix([[0] * vectors.nrows()] * len(jacobian), vectors.nrows())
    assert product == nothing, "a direction is not in the kernel"
    by_sample = sum(count for term, _, count in why.terms if term == "sample too small")
    assert why.explained - by_sample == vectors.rank()


@given(networks(), st.sampled_from(["identity", "softmax"]))
def test_never_more_is_explained_than_is_missing(case, head):
    net, x = case
    why = fd.explain(net, x, head=head)
    parameters = sum(p.numel() for p in net.parameters())
    assert why.explained <= parameters - rational_rank(net, x, head)
    assert sum(count for _, _, count in why.rows[:-1]) == why.rows[-1][2] == int(why.dimension)


def count(why, term):
    return sum(taken for name, _, taken in why.terms if name == term)


def test_each_term_alone_on_networks_built_for_it():
    x = fd.gaussian_inputs(400, 4, mean=0.0)
    net = fd.relu_mlp([4, 6, 5, 2], seed=0, bias_std=0.3)
    plain = fd.explain(net, x)
    assert count(plain, "rescalings") == 11 and plain.unexplained == 0

    with_softmax = fd.explain(net, x, head="softmax")
    assert count(with_softmax, "softmax shift") == 6 and with_softmax.unexplained == 0

    black = x.clone()
    black[:, 1:3] = 0.0
    blind = fd.explain(net, black)
    assert ("blind spots", 1, 2 * 6) in blind.terms
    assert blind.unexplained == 0

    with torch.no_grad():
        net[0].bias[0] = -1000.0
    dead = fd.explain(net, x)
    assert count(dead, "never active") == 5 + 5 and count(dead, "rescalings") == 10
    assert dead.unexplained == 0

    few = fd.explain(net, x[:3])
    assert count(few, "sample too small") > 0 and few.unexplained == 0 and int(few.dimension) == 6


def test_a_layer_that_is_always_active_is_linear():
    """Five units always active between 4 inputs and 2 outputs: an affine map, of 2·5 dimensions."""
    net, x = fd.relu_mlp([4, 5, 2], seed=0), fd.gaussian_inputs(50, 4)
    with torch.no_grad():
        net[0].bias += 1000.0
    why = fd.explain(net, x)
    assert int(why.dimension) == 10 and why.unexplained == 0
    # P = 5·5 + 2·6 = 37. Six affine functions of four inputs have one relation, which each output
    # is blind to.
    assert count(why, "blind spots") == 2
    assert count(why, "rescalings") + count(why, "active together") == 25


def test_a_twin_counts_once():
    net, x = fd.relu_mlp([3, 4, 2], seed=0, bias_std=1.0), fd.gaussian_inputs(200, 3, mean=0.0)
    with torch.no_grad():
        net[0].weight[0], net[0].bias[0] = net[0].weight[1].clone(), net[0].bias[1].clone()
    why = fd.explain(net, x)
    assert why.unexplained == 0 and count(why, "blind spots") >= 2


def test_the_table_and_the_sentence_hold_the_same_numbers():
    net, x = fd.relu_mlp([3, 4, 2], seed=0, bias_std=1.0), fd.gaussian_inputs(20, 3)
    why = fd.explain(net, x, head="softmax")
    table = why.table
    assert list(table) == ["term", "layer", "dimensions"]
    assert table.dimensions.iloc[:-1].sum() == table.dimensions.iloc[-1]
    lines = repr(why).splitlines()
    for term, taken in zip(table.term, table.dimensions):
        assert any(line.startswith(term) and line.endswith(f"{taken:,}") for line in lines)


def test_networks_and_samples_are_checked_as_for_the_rank():
    with pytest.raises(ValueError, match=r"x: found shape"):
        fd.explain(fd.relu_mlp([3, 4, 2]), torch.zeros(2, 5))
    with pytest.raises(TypeError, match=r"^model: aten\.tanh at 1: not piecewise polynomial"):
        fd.explain(nn.Sequential(nn.Linear(3, 2), nn.Tanh()), torch.zeros(2, 3))

"""Real digits, corruptions, and the training protocol."""

import gzip
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import fdimlib as fd


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()


@pytest.fixture
def mnist_folder(tmp_path):
    """The four files in the standard format, labels compressed, digits that can be recognised."""
    rng = np.random.default_rng(0)
    for part, n in (("train", 60), ("t10k", 40)):
        images = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        labels = rng.integers(0, 10, n).astype(np.uint8)
        images[:, 0, 0] = labels
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return tmp_path


def test_the_packaged_digits_are_real_and_balanced():
    digits = fd.mnist_sample(4000, 1000)
    x, y = torch.cat([digits.x_train, digits.x_test]), torch.cat([digits.y_train, digits.y_test])
    assert x.shape == (5000, 784) and x.dtype == torch.float64 and y.dtype == torch.int64
    assert torch.bincount(y).tolist() == [500] * 10
    assert (x.min(), x.max()) == (0, 1) and torch.equal((x * 255).round() / 255, x)
    assert x.unique(dim=0).shape[0] == 5000
    means = torch.stack([x[y == k].mean(dim=0) for k in range(10)])
    nearest = torch.cdist(x, means).argmin(dim=1)
    assert (nearest == y).double().mean() > 0.75, "class means classify real digits well"
    assert "5,000 MNIST digits" in str(digits)


def test_the_pool_of_10000_begins_with_that_of_5000_and_holds_no_digit_twice():
    small, large = (fd.mnist_sample(pool - 1, 1, pool=pool) for pool in (5000, 10_000))
    as_bytes = {pool: {x.numpy().tobytes() for x in torch.cat([digits.x_train, digits.x_test])}
                for pool, digits in ((5000, small), (10_000, large))}
    assert len(as_bytes[10_000]) == 10_000 and as_bytes[5000] < as_bytes[10_000]
    assert torch.bincount(torch.cat([large.y_train, large.y_test])).tolist() == [
        1001, 1127, 991, 1032, 980, 863, 1014, 1070, 944, 978]
    new = torch.tensor([x.numpy().tobytes() not in as_bytes[5000] for x in large.x_train])
    means = torch.stack([small.x_train[small.y_train == k].mean(dim=0) for k in range(10)])
    nearest = torch.cdist(large.x_train[new], means).argmin(dim=1)
    right = nearest == large.y_train[new]
    assert right.double().mean() > 0.75, "the other digits carry their labels"


def test_a_split_comes_from_the_smallest_pool_that_is_large_enough_unless_one_is_named():
    assert "5,000" in fd.mnist_sample(600, 4400).source
    assert "10,000" in fd.mnist_sample(600, 4401).source
    named, smallest = fd.mnist_sample(10, 10, pool=10_000), fd.mnist_sample(10, 10)
    assert "10,000" in named.source
    assert not torch.equal(named.x_train, smallest.x_train)


def test_a_pool_that_is_not_there_is_refused(mnist_folder):
    with pytest.raises(ValueError, match="pool: found 70000; use 5000 or 10000"):
        fd.mnist_sample(10, 10, pool=70_000)
    with pytest.raises(ValueError, match="pool: found 5000, but there are 100 images"):
        fd.mnist_sample(10, 10, root=mnist_folder, pool=5000)


def test_the_history_is_the_mean_loss_of_every_epoch():
    digits = fd.mnist_sample(40, 1)
    net = fd.relu_mlp([784, 5, 10], seed=0)
    some, others = (fd.train(net, digits.x_train, digits.y_train, checkpoints=epochs, batch_size=40,
                             progress=False) for epochs in ((2, 3), (1, 2)))
    assert [len(c.history) for c in some] == [0, 2, 3]
    # One batch an epoch: its loss is that of the network before the step.
    assert some[-1].history == pytest.approx([c.loss for c in others])


def test_splits_are_seeded_and_disjoint():
    a, b, c = (fd.mnist_sample(50, 50, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(a.x_train, b.x_train) and not torch.equal(a.x_train, c.x_train)
    assert not (a.x_train[:, None] == a.x_test).all(dim=2).any()


def test_the_full_set_is_used_when_the_user_has_it(mnist_folder, monkeypatch):
    digits = fd.mnist_sample(70, 30, root=mnist_folder)
    assert digits.source == f"100 images (labels 0 to 9; not the MNIST digits) in {mnist_folder}"
    first_pixels = (digits.x_train[:, 0] * 255).round().long()
    assert torch.equal(first_pixels, digits.y_train), "labels follow their images"
    monkeypatch.setenv("FDIMLIB_MNIST", str(mnist_folder))
    assert torch.equal(fd.mnist_sample(70, 30).x_train, digits.x_train)


INCOMPLETE = "not a complete IDX file of 3 dimensions"


@pytest.mark.parametrize("damage, error, message", [
    (lambda p: p.unlink(), FileNotFoundError,
     "has no train-images-idx3-ubyte or train-images-idx3-ubyte.gz; .*near names in .*t10k"),
    (lambda p: p.write_bytes(p.read_bytes()[:-1]), ValueError, INCOMPLETE),
    (lambda p: p.write_bytes(p.read_bytes()[:6]), ValueError, INCOMPLETE),
    (lambda p: p.write_bytes(b"<html>" + p.read_bytes()), ValueError, INCOMPLETE),
    (lambda p: p.write_bytes(idx(np.zeros((3, 28, 28), np.uint8))), ValueError,
     r"3 train images of shape \(28, 28\) but 60 labels"),
])
def test_a_damaged_folder_is_named(mnist_folder, damage, error, message):
    damage(mnist_folder / "train-images-idx3-ubyte")
    with pytest.raises(error, match=message) as raised:
        fd.mnist_sample(5, 5, root=mnist_folder)
    assert str(mnist_folder) in str(raised.value)


@pytest.mark.parametrize("cut", [slice(0, 20), slice(0, -1), slice(3, None)])
def test_a_damaged_gzip_file_is_named(mnist_folder, cut):
    path = mnist_folder / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[cut])
    message = r"root: .*t10k-labels-idx1-ubyte.gz is not a complete gzip file .* fetch it again"
    with pytest.raises(ValueError, match=message):
        fd.mnist_sample(5, 5, root=mnist_folder)


@pytest.mark.parametrize("sizes, message", [
    ((0, 5), "n_train: found 0"), ((5, 1.5), "n_test: found 1.5"),
    ((8000, 4000), r"8000 \+ 4000, but there are the package's 10,000 MNIST digits; take fewer"),
])
def test_sizes_are_checked(sizes, message):
    with pytest.raises(ValueError, match=message):
        fd.mnist_sample(*sizes)


def test_gaussian_samples_grow_by_appending():
    assert torch.equal(fd.gaussian_inputs(7, 5, seed=3), fd.gaussian_inputs(20, 5, seed=3)[:7])
    x = fd.gaussian_inputs(2000)
    assert x.shape == (2000, 784) and abs(x.mean() - 0.5) < 0.01 and abs(x.std() - 1) < 0.01


def test_corruptions_do_what_they_say_and_leave_the_original():
    x, y = torch.zeros(500, 10, dtype=torch.float64), torch.zeros(2000, dtype=torch.int64)
    assert abs(fd.add_noise(x, 0.3).std() - 0.3) < 0.02 and torch.equal(fd.add_noise(x, 0.0), x)
    assert (fd.randomize_labels(y, 0.0) == 0).all() and not x.any() and not y.any()
    assert abs((fd.randomize_labels(y, 0.5) != 0).double().mean() - 0.45) < 0.03
    assert sorted(fd.randomize_labels(y, 1.0).unique().tolist()) == list(range(10))
    assert fd.add_noise(torch.full((5, 5), 200, dtype=torch.uint8), 0.5).is_floating_point()
    with pytest.raises(ValueError, match="level: found -1"):
        fd.add_noise(x, -1)
    with pytest.raises(ValueError, match=r"share: found 1.5"):
        fd.randomize_labels(y, 1.5)


@pytest.mark.parametrize("options, message", [
    (dict(seed="one"), "^seed: found 'one'; give a whole number, at least 0"),
    (dict(seed=1.5), "^seed: found 1.5"), (dict(seed=-1), "^seed: found -1"),
    (dict(pool="all"), "^pool: found 'all'; give a whole number"),
])
def test_the_arguments_of_a_split_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        fd.mnist_sample(5, 5, **options)


def test_whole_numbers_of_any_kind_are_seeds():
    plain = fd.mnist_sample(5, 5, seed=1)
    for seed in (np.int64(1), np.uint8(1), 1.0):
        assert torch.equal(fd.mnist_sample(5, 5, seed=seed).x_train, plain.x_train)


@pytest.fixture(scope="module")
def digits():
    return fd.mnist_sample(300, 10)


def same(some, others):
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


def test_training_learns_real_digits_deterministically_and_leaves_the_network_alone(digits):
    net = fd.relu_mlp([784, 10, 10], seed=0)
    before = [p.clone() for p in net.parameters()]
    first, again = (fd.train(net, digits.x_train, digits.y_train, checkpoints=(5, 20, 30),
                             progress=False) for _ in range(2))
    assert [c.epoch for c in first] == [0, 5, 20, 30]
    assert same(first[-1].model.parameters(), again[-1].model.parameters())
    assert same(net.parameters(), before) and all(p.grad is None for p in net.parameters())
    assert same(first[0].model.parameters(), before)
    losses = [c.loss for c in first]
    assert losses == sorted(losses, reverse=True) and first[-1].accuracy > 0.8
    loss, accuracy = fd.evaluate(first[-1].model, digits.x_train, digits.y_train)
    assert (loss, accuracy) == (first[-1].loss, first[-1].accuracy)


TRAIN_AND_PRINT = """
import fdimlib as fd
from fdimlib.companion.sweeps import fingerprint
digits = fd.mnist_sample(300, 10)
net = fd.relu_mlp([784, 10, 10], seed=0)
kept = fd.train(net, digits.x_train, digits.y_train, checkpoints=(40,), progress=False)
print(*(fingerprint(checkpoint.model) for checkpoint in kept))
"""


@pytest.mark.slow
def test_training_gives_the_same_bits_with_other_processor_instructions():
    """Sums in another order, as on an older processor.

    Without rounding to the grid, even the initial weights differ.
    """
    plain = {"MKL_CBWR": "COMPATIBLE", "ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "1"}
    found = {subprocess.run([sys.executable, "-c", TRAIN_AND_PRINT], env=os.environ | extra,
                            capture_output=True, text=True, check=True).stdout
             for extra in ({}, plain)}
    assert len(found) == 1 and len(found.pop().split()) == 2


def test_training_keeps_every_sample_of_the_last_batch(digits):
    """One epoch with full batches is one step of gradient descent on the mean loss."""
    net = fd.relu_mlp([784, 3, 10], seed=0)
    loss = nn.functional.cross_entropy(net(digits.x_train), digits.y_train)
    gradient = torch.autograd.grad(loss, list(net.parameters()))
    expected = [p - 0.1 * g for p, g in zip(net.parameters(), gradient)]
    kept = fd.train(net, digits.x_train, digits.y_train, epochs=1, batch_size=1000, progress=False)
    for found, wanted in zip(kept[-1].model.parameters(), expected):
        torch.testing.assert_close(found.detach(), wanted.detach())


def test_a_final_softmax_is_left_out_of_the_loss(digits):
    net = fd.relu_mlp([784, 4, 10], seed=0)
    plain, ending = (fd.train(m, digits.x_train, digits.y_train, epochs=2, progress=False)[-1]
                     for m in (net, nn.Sequential(*net, nn.Softmax(dim=1))))
    assert plain.loss == ending.loss and type(ending.model[-1]) is nn.Softmax


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_networks_of_lower_precision_train_in_it(digits, dtype):
    net = fd.relu_mlp([784, 4, 10]).to(dtype)
    kept = fd.train(net, digits.x_train, digits.y_train, epochs=1, progress=False)
    assert kept[-1].model[0].weight.dtype == dtype and kept[-1].loss < 2.5


@pytest.mark.parametrize("change, message", [
    (dict(y=torch.zeros(7, dtype=torch.int64)), r"y: found shape \(7,\)"),
    (dict(y=torch.full((300,), 10)), "values 10 to 10"),
    (dict(y=torch.zeros(300)), "give 300 integer labels from 0 to 9"),
    (dict(epochs=0), "epochs: found 0; give a whole number, at least 1"),
    (dict(batch_size=0), "batch_size: found 0"), (dict(lr=-1.0), "lr: found -1.0"),
    (dict(checkpoints=(-1, 5)), "checkpoints: found -1"),
])
def test_training_options_are_checked(digits, change, message):
    with pytest.raises(ValueError, match=message):
        fd.train(fd.relu_mlp([784, 4, 10]), **(dict(x=digits.x_train, y=digits.y_train) | change))


def test_divergence_is_reported(digits):
    with pytest.raises(FloatingPointError, match=r"training diverged: the loss is .* lower lr"):
        fd.train(fd.relu_mlp([784, 30, 30, 30, 10]), digits.x_train, digits.y_train, epochs=40,
                 lr=1e30, progress=False)

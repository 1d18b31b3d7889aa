"""Train the golden runs and write checkpoints of theirs: w = 30, and a w = 10 whose rank falls.

`python tests/golden/make.py` was run once; what it wrote is committed, so that anyone can check
that the same seed gives the same weights, and the same weights the same integers. The run of w = 10
is one of the larger setting, seed 2: 6,000 digits, 3,000 epochs. Its rank falls by two fifths after
epoch 80; its ranks stand in figures/data/training_large.csv.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

import fdimlib as fd
from fdimlib.companion.experiments import Run

HERE = Path(__file__).resolve().parent
EPOCHS = (0, 40, 80, 280, 680)
WIDTHS = [784, 30, 30, 30, 10]
FALLING, FALLING_EPOCHS = Run(10, seed=2, n_train=6000, digits=10_000), (80, 3000)


def window(x):
    """The digits with all pixels black but the central 10 × 10.

    They are few enough for the rank to stay below every bound.
    """
    kept = torch.zeros(28, 28, dtype=x.dtype)
    kept[9:19, 9:19] = 1
    return x * kept.flatten()


def ranks(model):
    """Exact ranks of the softmax head, far below the bounds, 5,400 and 25,599."""
    digits = fd.mnist_sample(600, 600, seed=0)
    samples = {"train": window(digits.x_train), "test": window(digits.x_test)}
    return {name: int(fd.batch_functional_dimension(model, x, head="softmax", progress=False))
            for name, x in samples.items()}


def train():
    digits = fd.mnist_sample(600, 600, seed=0)
    net = fd.relu_mlp(WIDTHS, seed=0)
    return fd.train(net, digits.x_train, digits.y_train, checkpoints=EPOCHS, seed=0, progress=False)


def falling_digits():
    return fd.mnist_sample(FALLING.n_train, 1, seed=FALLING.seed, pool=FALLING.digits)


def train_falling():
    digits, net = falling_digits(), fd.relu_mlp(FALLING.layers, seed=FALLING.seed)
    return fd.train(net, digits.x_train, digits.y_train, checkpoints=FALLING_EPOCHS,
                    seed=FALLING.seed)[1:]


def main():
    kept = train()
    for width, checkpoints in ((30, kept), (FALLING.width, train_falling())):
        for checkpoint in checkpoints:
            path = HERE / f"w{width}_epoch{checkpoint.epoch:03}.safetensors"
            save_file(checkpoint.model.state_dict(), path)
    table = {checkpoint.epoch: ranks(checkpoint.model) for checkpoint in kept}
    (HERE / "ranks.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()

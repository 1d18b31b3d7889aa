"""The canonical run gives the committed weights, these the committed integers, on any machine."""

import json

import pytest
import torch
from golden import make
from safetensors.torch import load_file

import fdimlib as fd
from fdimlib.companion.experiments import Point
from fdimlib.companion.sweeps import all_records, fingerprint

RANKS = json.loads((make.HERE / "ranks.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("epoch", make.EPOCHS)
def test_same_weights_same_integers(epoch):
    model = fd.relu_mlp(make.WIDTHS)
    model.load_state_dict(load_file(make.HERE / f"w30_epoch{epoch:03}.safetensors"))
    assert make.ranks(model) == RANKS[str(epoch)]


@pytest.mark.slow
@pytest.mark.parametrize("epoch", make.FALLING_EPOCHS)
def test_the_run_that_loses_two_fifths_of_its_rank_has_the_recorded_integers(epoch):
    model = fd.relu_mlp(make.FALLING.layers)
    model.load_state_dict(load_file(make.HERE / f"w10_epoch{epoch:03}.safetensors"))
    recorded = all_records().get(Point(make.FALLING, epoch, "train", make.FALLING.n_train))
    x = make.falling_digits().x_train
    assert recorded["weights"] == fingerprint(model)
    assert recorded["exact"] == int(
        fd.batch_functional_dimension(model, x, head="softmax", progress=False))


def test_training_again_gives_the_committed_weights_bit_by_bit():
    for checkpoint in make.train():
        committed = load_file(make.HERE / f"w30_epoch{checkpoint.epoch:03}.safetensors")
        found = checkpoint.model.state_dict()
        different = [name for name in committed if not torch.equal(found[name], committed[name])]
        assert not different, f"epoch {checkpoint.epoch}"

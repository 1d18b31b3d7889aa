"""The canonical run gives the committed weights, these the committed integers, on any machine."""

import json

import pytest
import torch
from golden import make
from safetensors.torch import load_file

import fdimlib as fd

RANKS = json.loads((make.HERE / "ranks.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("epoch", make.EPOCHS)
def test_same_weights_same_integers(epoch):
    model = fd.relu_mlp(make.WIDTHS)
    model.load_state_dict(load_file(make.HERE / f"w30_epoch{epoch:03}.safetensors"))
    assert make.ranks(model) == RANKS[str(epoch)]


def test_training_again_gives_the_committed_weights_bit_by_bit():
    for checkpoint in make.train():
        committed = load_file(make.HERE / f"w30_epoch{checkpoint.epoch:03}.safetensors")
        found = checkpoint.model.state_dict()
        different = [name for name in committed if not torch.equal(found[name], committed[name])]
        assert not different, f"epoch {checkpoint.epoch}"

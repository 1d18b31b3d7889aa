"""The canonical run's committed weights give the committed integers, on any machine."""

import json

import pytest
from golden import make
from safetensors.torch import load_file

import fdimlib as fd

RANKS = json.loads((make.HERE / "ranks.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("epoch", make.EPOCHS)
def test_same_weights_same_integers(epoch):
    model = fd.relu_mlp(make.WIDTHS)
    model.load_state_dict(load_file(make.HERE / f"w30_epoch{epoch:03}.safetensors"))
    assert make.ranks(model) == RANKS[str(epoch)]

"""Networks and samples in files: read as they were written, and nothing in them is run."""

import dataclasses
import json
import pickle
import random
import shutil
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import fdimlib as fd
from fdimlib.__main__ import main
from fdimlib.files import load_inputs, load_network

NET = nn.Sequential(nn.Flatten(), *fd.relu_mlp([4, 3, 2], seed=0, bias_std=1.0), nn.Softmax(dim=1))
LAYERS = "Flatten Linear ReLU Linear Softmax"
X = fd.gaussian_inputs(5, 4).reshape(5, 2, 2)


@pytest.fixture
def stored(tmp_path):
    """The network as net.safetensors, its layers in the metadata, beside the sample, x.npy."""
    save_file(NET.state_dict(), tmp_path / "net.safetensors", {"layers": LAYERS})
    np.save(tmp_path / "x.npy", X)
    return tmp_path


def exported(path, model=NET, x=X):
    """The archive of a module, exported for samples of any size."""
    shapes = ({0: torch.export.Dim("n")},)
    torch.export.save(torch.export.export(model, (x,), dynamic_shapes=shapes), path)
    return path


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("archive") / "net.pt2")


def same(model, other=NET):
    assert [type(layer) for layer in model] == [type(layer) for layer in other]
    assert list(model.state_dict()) == list(other.state_dict())
    pairs = zip(model.state_dict().values(), other.state_dict().values())
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def test_a_safetensors_file_gives_the_network_bit_by_bit(stored):
    assert same(load_network(stored / "net.safetensors"))
    assert same(load_network(stored / "net.safetensors", LAYERS.split()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_both_formats_keep_the_precision(dtype, tmp_path):
    net = fd.relu_mlp([4, 3, 2], seed=0, bias_std=1.0).to(dtype)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    assert same(load_network(tmp_path / "net.safetensors", ["Linear", "ReLU", "Linear"]), net)
    assert same(load_network(exported(tmp_path / "net.pt2", net, X.flatten(1).to(dtype))), net)


def test_an_archive_gives_the_network_bit_by_bit(archive):
    assert same(load_network(archive))


def test_layers_in_place_without_bias_and_frozen_are_read(tmp_path):
    net = nn.Sequential(nn.Linear(4, 3, bias=False), nn.ReLU(inplace=True), nn.Linear(3, 2))
    net[0].weight.requires_grad_(False)
    found = load_network(exported(tmp_path / "net.pt2", net, X.flatten(1).float()))
    assert same(found, net) and not found[0].weight.requires_grad


class Chain(nn.Module):
    """Layers by their names in a class of its own, as most networks are written."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.second(torch.relu(self.first(x.flatten(1)))).softmax(dim=-1)


def test_what_is_computed_counts_and_not_how_the_module_is_written(tmp_path):
    module = Chain()
    found = load_network(exported(tmp_path / "net.pt2", module, X.float()))
    assert [type(layer) for layer in found] == [type(layer) for layer in NET]
    torch.testing.assert_close(found(X.float()), module(X.float()), rtol=0, atol=0)


class Tied(Chain):
    def __init__(self):
        super().__init__()
        self.first = self.second = nn.Linear(4, 4)


class NamedTwice(Chain):
    def __init__(self):
        super().__init__()
        self.last = self.second


def test_a_parameter_of_two_names_is_one_and_may_be_used_once(tmp_path):
    found = load_network(exported(tmp_path / "tied.pt2", Tied(), X.float()))
    with pytest.raises(ValueError, match="model: two layers share a parameter"):
        fd.batch_functional_dimension(found, X)
    module = NamedTwice()
    found = load_network(exported(tmp_path / "named.pt2", module, X.float()))
    assert fd.batch_functional_dimension(found, X).parameters == 4 * 3 + 3 + 3 * 2 + 2


class Residual(Chain):
    def forward(self, x):
        x = x.flatten(1)
        return x + self.second(torch.relu(self.first(x))).sum(dim=1, keepdim=True)


class Skipping(Chain):
    """Its second layer takes the input again, not what the first gives."""

    def __init__(self):
        super().__init__()
        self.second = nn.Linear(4, 2)

    def forward(self, x):
        self.first(x.flatten(1)).relu()
        return self.second(x.flatten(1))


class TwoOutputs(Chain):
    def forward(self, x):
        hidden = torch.relu(self.first(x.flatten(1)))
        return hidden, self.second(hidden)


class WithBuffer(Chain):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.ones(2))

    def forward(self, x):
        return super().forward(x) * self.scale


class Cast(Chain):
    def forward(self, x):
        return self.second(torch.relu(self.first(x.flatten(1)))).softmax(dim=1, dtype=torch.float64)


class Unused(Chain):
    def forward(self, x):
        return self.first(x.flatten(1))


REFUSED = {  # module: what is said of it
    "tanh": (nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.Tanh()),
             r"model: operator aten\.tanh\.default \(node tanh\) cannot be read .*aten\.relu"),
    "convolution": (nn.Sequential(nn.Unflatten(1, (1, 2)), nn.Conv2d(1, 1, 2)),
                    r"model: operator aten\.\w+\.\w+ \(node \w+\) cannot be read"),
    "residual": (Residual(), r"model: operator aten\.sum\.dim_IntList .* cannot be read"),
    "no chain": (Skipping(), r"model: operator aten\.flatten\.using_ints \(node flatten_1\) does "
                             "not take what the operator before it gives"),
    "two outputs": (TwoOutputs(), "model: its program gives more, or other, than its last"),
    "a buffer": (WithBuffer(), "model: its program takes a buffer; only parameters and one input"),
    "an argument": (Cast(), r"aten\.softmax\.int .* has the argument dtype, which is not"),
    "unused": (Unused(), r"model: no operator takes the parameters second\.weight, second\.bias"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_programs_that_are_no_chain_of_known_operators_are_refused_by_name(case, tmp_path):
    module, message = REFUSED[case]
    path = exported(tmp_path / "net.pt2", module, X.float())
    with pytest.raises(ValueError, match=message):
        load_network(path)


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def changed(archive, target, changes):
    """A copy of an archive with other contents for some parts: name → new bytes, None to drop."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            part = name.split("/", 1)[1]
            content = changes.get(part, lambda given: given)(old.read(name))
            if content is not None:
                new.writestr(name, content)
    return target


def edited(change):
    """A change of a part's JSON as a change of its bytes."""
    def apply(content):
        found = json.loads(content)
        change(found)
        return json.dumps(found).encode()

    return apply


def test_nothing_in_an_archive_is_unpickled_or_evaluated(archive, tmp_path):
    """torch.export.load runs each of these: example inputs, a pickled weight, a symbolic size."""
    trace = tmp_path / "executed"
    bomb = pickle.dumps(Bomb(trace))

    def evaluated(program):
        sizes = program["graph_module"]["graph"]["tensor_values"]["input"]["sizes"]
        sizes[0]["as_expr"]["expr_str"] = f"open({str(trace)!r}, 'w')"

    harmless = changed(archive, tmp_path / "a.pt2", {
        "data/sample_inputs/model.pt": lambda _: bomb, "models/model.json": edited(evaluated)})
    assert same(load_network(harmless))

    def pickled(config):
        config["config"]["1.weight"]["use_pickle"] = True

    refused = changed(archive, tmp_path / "b.pt2", {
        "data/weights/weight_0": lambda _: bomb,
        "data/weights/model_weights_config.json": edited(pickled)})
    with pytest.raises(ValueError, match=r"path: its tensor '1\.weight' is pickled"):
        load_network(refused)
    assert not trace.exists()
    pickle.loads(bomb)
    assert trace.exists(), "the bomb would have been seen"


def size_of(name, sizes):
    def change(config):
        config["config"][name]["tensor_meta"]["sizes"] = [{"as_int": size} for size in sizes]

    return edited(change)


CONFIG, PROGRAM = "data/weights/model_weights_config.json", "models/model.json"
DAMAGES = {  # part → what becomes of it; what is said
    "a weight cut": ({"data/weights/weight_0": lambda given: given[:-8]},
                     r"path: its tensor '1\.weight' of sizes \[3, 4\] .* does not fit into the 88"),
    "a weight gone": ({"data/weights/weight_0": lambda _: None}, "path: net.pt2 is not an archive"),
    "no numbers": ({"data/weights/weight_0": lambda given: given[:-1]}, "path: 95 bytes in weight"),
    "sizes": ({CONFIG: size_of("1.weight", [3, 5])}, r"sizes \[3, 5\] .* does not fit into the 96"),
    "sizes too huge to multiply": ({CONFIG: size_of("1.weight", [2**62, 2**62])}, "does not fit"),
    "sizes below zero": ({CONFIG: size_of("1.weight", [-3, 4])}, "does not fit"),
    "other shapes": ({CONFIG: size_of("1.bias", [2])},
                     r"model: aten\.linear: found weight and bias of shapes \(3, 4\), \(2,\)"),
    "program cut": ({PROGRAM: lambda given: given[:-9]}, "path: net.pt2 is not an archive"),
    "program gone": ({PROGRAM: lambda _: None}, r"path: holds 0 exported programs"),
    "program of another form": ({PROGRAM: lambda _: b"[1, 2]"}, "path: net.pt2 is not an archive"),
    "schema": ({PROGRAM: edited(lambda program: program["schema_version"].update(major=9))},
               "path: its program is written in schema 9; schema 8"),
    "format": ({"archive_format": lambda _: b"pt3"}, "path: an archive of another format"),
    "byte order": ({"byteorder": lambda _: b"middle"}, "path: its numbers are middle-endian"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_archives_are_refused(damage, archive, tmp_path):
    changes, message = DAMAGES[damage]
    with pytest.raises(ValueError, match=message):
        load_network(changed(archive, tmp_path / "net.pt2", changes))


@pytest.mark.parametrize("name", ["net.pt2", "net.safetensors", "x.npy"])
def test_files_with_wrong_bytes_are_read_or_refused(name, stored, archive):
    """300 files with a few bytes changed, some cut: a ValueError, if any error."""
    shutil.copy(archive, stored)
    path, rng = stored / name, random.Random(0)
    content, refused = path.read_bytes(), 0
    for _ in range(300):
        changed = bytearray(content)
        for _ in range(rng.choice([1, 2, 5])):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        path.write_bytes(changed[: rng.choice([len(changed), rng.randrange(len(changed))])])
        try:
            load_inputs(path) if name == "x.npy" else load_network(path)
        except ValueError:
            refused += 1
    assert refused > 100


def test_files_that_are_no_archive_are_refused(tmp_path):
    (tmp_path / "net.pt2").write_bytes(b"no zip file")
    with pytest.raises(ValueError, match=r"path: net\.pt2 is not an archive"):
        load_network(tmp_path / "net.pt2")


LAYER_LISTS = {
    "none": (None, "layers: bare.safetensors names none in its metadata"),
    "unknown": (["Linear", "Tanh", "Linear"], "layers: found 'Tanh' at position 1; use Flatten"),
    "too short": (["Flatten", "Linear"], "leave no place for the file's tensors 3.bias, 3.weight"),
    "shifted": (["Linear", "ReLU", "Linear"], "Linear at position 0, but the file has no tensor "
                                              "'0.weight'; it has 1.bias, 1.weight, 3.bias"),
}


@pytest.mark.parametrize("case", LAYER_LISTS)
def test_layer_lists_that_do_not_fit_the_tensors_are_refused(case, tmp_path):
    layers, message = LAYER_LISTS[case]
    save_file(NET.state_dict(), tmp_path / "bare.safetensors")
    with pytest.raises(ValueError, match=message):
        load_network(tmp_path / "bare.safetensors", layers)


def test_tensors_of_other_shapes_are_refused(tmp_path):
    save_file({"0.weight": torch.ones(2, 3), "0.bias": torch.ones(3)}, tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match=r"layers: Linear at position 0: found weight and bias of"):
        load_network(tmp_path / "net.safetensors", ["Linear"])


def test_other_formats_and_missing_files_are_refused(stored):
    (stored / "cut.safetensors").write_bytes((stored / "net.safetensors").read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"path: cut\.safetensors is not a complete"):
        load_network(stored / "cut.safetensors")
    with pytest.raises(ValueError, match=r"path: found net\.pt; give a .* may run code"):
        load_network(stored / "net.pt")
    with pytest.raises(FileNotFoundError, match="path: there is no file"):
        load_network(stored / "none.safetensors")


def test_an_archive_takes_no_list_of_layers(archive):
    with pytest.raises(ValueError, match=r"layers: a \.pt2 archive holds its layers"):
        load_network(archive, ["Linear"])


def test_samples_with_python_objects_are_refused_unread(tmp_path):
    bombs = np.empty(1, dtype=object)
    bombs[0] = Bomb(tmp_path / "executed")
    np.save(tmp_path / "x.npy", bombs, allow_pickle=True)
    np.savez(tmp_path / "several.npz", a=X, b=X)
    shutil.move(tmp_path / "several.npz", tmp_path / "several.npy")
    (tmp_path / "text.npy").write_text("1 2 3")
    (tmp_path / "empty.npy").write_bytes(b"")
    for name in ("x.npy", "text.npy", "empty.npy"):
        with pytest.raises(ValueError, match=f"x: {name} is not an array of numbers"):
            load_inputs(tmp_path / name)
    with pytest.raises(ValueError, match=r"x: several\.npy holds several arrays; give one"):
        load_inputs(tmp_path / "several.npy")
    assert not (tmp_path / "executed").exists()


def rank(*arguments):
    return main(["rank", *map(str, arguments)])


@pytest.mark.parametrize("name", ["net.safetensors", "net.pt2"])
def test_the_command_prints_the_sentence_or_all_fields(name, stored, archive, capsys):
    shutil.copy(archive, stored)
    dim = fd.batch_functional_dimension(NET, X)
    arguments = (stored / name, "--inputs", stored / "x.npy")
    assert rank(*arguments) == 0
    assert capsys.readouterr().out == f"{dim}\n"
    assert rank(*arguments, "--json") == 0
    fields = json.loads(capsys.readouterr().out)
    assert fields == json.loads(json.dumps(dataclasses.asdict(dim)))


def test_the_command_passes_its_options_on(stored, capsys):
    arguments = (stored / "net.safetensors", "--inputs", stored / "x.npy", "--json")
    layers = ("--layers", *LAYERS.split())
    for given, expected in [
        (("--head", "identity", *layers), {"head": "identity"}),
        (("--at", "region", "--repeats", "2"), {"at": "region"}),
        (("--method", "svd"), {"method": "svd", "verified": False, "head": "softmax"}),
    ]:
        assert rank(*arguments, *given) == 0
        fields = json.loads(capsys.readouterr().out)
        assert {name: fields[name] for name in expected} == expected


MISTAKES = {
    "no network": (["none.safetensors", "--inputs", "x.npy"], "MODEL: there is no file"),
    "no sample": (["net.safetensors", "--inputs", "none.npy"], "--inputs: there is no file"),
    "width": (["net.safetensors", "--inputs", "wide.npy"], "--inputs: found shape (5, 9)"),
    "NaN": (["net.safetensors", "--inputs", "nan.npy"], "--inputs is nan at [0, 0]"),
    "layers": (["net.safetensors", "--inputs", "x.npy", "--layers", "Tanh"],
               "--layers: found 'Tanh' at position 0"),
    "repeats": (["net.safetensors", "--inputs", "x.npy", "--repeats", "0"], "--repeats: found 0"),
    "both": (["net.safetensors", "--inputs", "x.npy", "--method", "svd", "--at", "region"],
             "--at: 'region' needs method='exact'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named_by_their_argument_with_status_2(mistake, stored, capsys, monkeypatch):
    arguments, message = MISTAKES[mistake]
    np.save(stored / "wide.npy", np.zeros((5, 9)))
    np.save(stored / "nan.npy", np.full((5, 4), np.nan))
    monkeypatch.chdir(stored)
    assert rank(*arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith(message)


def test_unknown_options_have_status_2_too(stored, capsys):
    with pytest.raises(SystemExit) as stopped:
        rank(stored / "net.safetensors", "--inputs", stored / "x.npy", "--head", "sigmoid")
    assert stopped.value.code == 2 and "argument --head: invalid choice" in capsys.readouterr().err


def test_a_missing_device_is_named(stored, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert rank(stored / "net.safetensors", "--inputs", stored / "x.npy", "--device", "cuda") == 2
    assert capsys.readouterr().err.startswith("--device: found cuda, but torch sees no CUDA")

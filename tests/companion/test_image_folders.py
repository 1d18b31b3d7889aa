"""Folders of MNIST and of sets like it, as people have them; what was read is what is told."""

import os

import numpy as np
import pytest

import fdimlib as fd
from fdimlib.companion import data, measurements
from fdimlib.companion.experiments import Point, Run


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()


def write_set(folder, names, images, labels):
    """Four files: `names` maps part and kind to a file's name; the last 40 images are for tests."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, rows in (("train", slice(None, -40)), ("t10k", slice(-40, None))):
        (folder / names(part, "images", 3)).write_bytes(idx(images[rows]))
        (folder / names(part, "labels", 1)).write_bytes(idx(labels[rows]))


def constant_set(value, n=100):
    return np.full((n, 28, 28), value, np.uint8), np.full(n, value % 10, np.uint8)


def standard(part, what, dimensions):
    return f"{part}-{what}-idx{dimensions}-ubyte"


def first_pixel(**options):
    return round(fd.mnist_sample(5, 5, **options).x_train[0, 0].item() * 255)


def test_a_relative_folder_is_that_of_the_present_directory(tmp_path, monkeypatch):
    for name, value in (("one", 11), ("two", 22)):
        write_set(tmp_path / name / "data", standard, *constant_set(value))
    for name, value in (("one", 11), ("two", 22), ("one", 11)):
        monkeypatch.chdir(tmp_path / name)
        assert first_pixel(root="data") == value
        assert fd.mnist_sample(5, 5, root="data").source.endswith(f" in {tmp_path / name / 'data'}")
        monkeypatch.setenv("FDIMLIB_MNIST", "data")
        assert first_pixel() == value
        monkeypatch.delenv("FDIMLIB_MNIST")


def test_files_replaced_in_place_are_read_again(tmp_path):
    write_set(tmp_path, standard, *constant_set(11))
    assert first_pixel(root=tmp_path) == 11
    times = {path: path.stat() for path in tmp_path.iterdir()}
    write_set(tmp_path, standard, *constant_set(22))
    for path, before in times.items():  # as `cp --preserve` leaves them
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert first_pixel(root=tmp_path) == 22
    write_set(tmp_path / "new", standard, *constant_set(33))
    for path in (tmp_path / "new").iterdir():
        path.replace(tmp_path / path.name)
    assert first_pixel(root=tmp_path) == 33


def test_links_and_the_home_folder_are_followed(tmp_path, monkeypatch):
    for value in (11, 22):
        write_set(tmp_path / f"{value}", standard, *constant_set(value))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert first_pixel(root="~/11") == 11
    link = tmp_path / "link"
    for value in (11, 22):
        link.unlink(missing_ok=True)
        link.symlink_to(tmp_path / f"{value}")
        assert first_pixel(root=link) == value
        assert str(tmp_path / f"{value}") in fd.mnist_sample(5, 5, root=link).source


@pytest.mark.parametrize("below, names", [
    ("", lambda part, what, d: f"{part}-{what}.idx{d}-ubyte"),
    ("raw", standard), ("MNIST/raw", standard), ("MNIST", standard),
    ("", lambda part, what, d: f"{part}-{what}-idx{d}-ubyte".replace("t10k", "test")),
    ("", lambda part, what, d: f"emnist-digits-{part}-{what}-idx{d}-ubyte".replace("t10k", "test")),
])
def test_folders_are_read_as_people_have_them(below, names, tmp_path):
    write_set(tmp_path / below, names, *constant_set(11))
    write_set(tmp_path / "FashionMNIST" / "raw", standard, *constant_set(22))  # beside it
    assert first_pixel(root=tmp_path) == 11
    assert str(tmp_path / below) in fd.mnist_sample(5, 5, root=tmp_path).source


def test_one_of_several_sets_in_a_folder_is_chosen_by_the_beginning_of_the_names(tmp_path):
    for name, value in (("emnist-letters", 11), ("emnist-digits", 22)):
        write_set(tmp_path, lambda *of, name=name: f"{name}-{standard(*of)}", *constant_set(value))
    message = f"root: .* holds 2 sets, emnist-digits, emnist-letters; name one of them: {tmp_path}"
    with pytest.raises(ValueError, match=message):
        fd.mnist_sample(5, 5, root=tmp_path)
    assert first_pixel(root=tmp_path / "emnist-letters") == 11
    found = fd.mnist_sample(5, 5, root=tmp_path / "emnist-digits")
    assert found.source == (f"100 images (labels 2 to 2; not the MNIST digits) in "
                            f"{tmp_path}/emnist-digits")


@pytest.mark.parametrize("there, message", [
    (("FashionMNIST/raw/train-images-idx3-ubyte",),
     "has no train-images-idx3-ubyte .*near names in .*: FashionMNIST, "
     "FashionMNIST/raw/train-images-idx3-ubyte$"),
    (("mnist.npz", "mnist_train.csv", "cats.csv"),
     r"; it must hold .*; near names in .*: mnist.npz, mnist_train.csv$"),
    (("train-images-idx3-ubyte.zip",), "near names in .*: train-images-idx3-ubyte.zip$"),
    (("cats.csv",), "it must hold the four standard MNIST files$"),
])
def test_a_folder_without_the_files_is_told_what_comes_near(there, message, tmp_path):
    for name in there:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(FileNotFoundError, match=f"^root: {tmp_path}.*{message}"):
        fd.mnist_sample(5, 5, root=tmp_path)


def test_a_folder_that_does_not_exist_is_named_as_the_user_named_it(tmp_path, monkeypatch):
    write_set(tmp_path / "mnist", standard, *constant_set(11))
    with pytest.raises(FileNotFoundError, match=r"^root: .*/mnits does not exist.*: mnist"):
        fd.mnist_sample(5, 5, root=tmp_path / "mnits")
    with pytest.raises(FileNotFoundError, match=r"^root: .*-ubyte is a file, not a folder"):
        fd.mnist_sample(5, 5, root=tmp_path / "mnist" / "train-images-idx3-ubyte")
    monkeypatch.setenv("FDIMLIB_MNIST", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"^FDIMLIB_MNIST: .* does not exist"):
        fd.mnist_sample(5, 5)
    for root in ("", 5, b"data"):
        with pytest.raises(ValueError, match=r"^root: found .*; give the path of a folder"):
            fd.mnist_sample(5, 5, root=root)


@pytest.fixture(scope="module")
def sets_of_70000(tmp_path_factory):
    """Two folders of 70,000 images: one holds the digits of the package, the other does not."""
    images = np.zeros((70_000, 28, 28), np.uint8)
    images.reshape(70_000, -1)[:, :3] = np.arange(70_000)[:, None] >> np.array([0, 8, 16]) & 255
    labels = (np.arange(70_000) % 10).astype(np.uint8)
    folders = {}
    for name in ("fashion", "digits"):
        folders[name] = tmp_path_factory.mktemp(name)
        if name == "digits":
            known = data.packaged_digits(10_000)
            images[5_000:15_000], labels[5_000:15_000] = known.images, known.labels
        write_set(folders[name], standard, images, labels)
    return folders


def test_a_set_like_mnist_is_reported_for_what_was_read(sets_of_70000):
    sources = {name: fd.mnist_sample(5, 5, root=folder) for name, folder in sets_of_70000.items()}
    assert sources["digits"].source == f"70,000 MNIST digits in {sets_of_70000['digits']}"
    assert str(sources["fashion"]) == (
        "5 training and 5 test images from 70,000 images (labels 0 to 9; not the MNIST digits) in "
        f"{sets_of_70000['fashion']}")


def test_experiments_on_a_full_set_that_is_not_mnist_are_refused(sets_of_70000, monkeypatch):
    """Their records would be found again under the key of an experiment on MNIST."""
    point = Point(Run(2, 0, n_train=5, digits=70_000), 0, "train", 5)
    monkeypatch.setenv("FDIMLIB_MNIST", str(sets_of_70000["fashion"]))
    message = "FDIMLIB_MNIST: found 70,000 images .*; the experiments are recorded as .* on MNIST"
    with pytest.raises(ValueError, match=message):
        data.pool_size()
    [(_, outcome)] = measurements.compute([point])
    assert outcome["error"].startswith("training: ValueError: FDIMLIB_MNIST: found 70,000 images")
    monkeypatch.setenv("FDIMLIB_MNIST", str(sets_of_70000["digits"]))
    assert data.pool_size() == 70_000
    [(_, outcome)] = measurements.compute([point])
    assert outcome["result"]["exact"] > 0

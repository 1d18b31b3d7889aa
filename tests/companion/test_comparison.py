"""Tables, pictures and captions against the published ones; provenance; runs that are kept."""

import json
from argparse import Namespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import fdimlib as fd
from fdimlib.companion import compared, figures, once, parameters, provenance, sources
from fdimlib.companion.compared import differing_cells
from fdimlib.companion.report import Report, Run

TABLE = pd.DataFrame({"n": [1, 2], "share": [0.5, 1 / 3], "seconds": [1.0, 2.0],
                      "word": ["same", "less"], "met": [True, False]})


@pytest.fixture
def published(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(compared.as_text(TABLE))
    return path


def cells(published, table, tolerance=1e-6, noise=()):
    found = differing_cells(table, published, tolerance=tolerance, noise=noise)
    return [(d.column, d.row, d.published, d.found) for d in found]


def test_a_table_is_the_same_as_itself_and_to_the_tolerance(published):
    assert cells(published, TABLE) == []
    assert cells(published, TABLE.assign(share=TABLE.share * (1 + 5e-7))) == []


@pytest.mark.parametrize("change, difference", [
    ({"n": [1, 3]}, ("n", 2, "2", "3")),
    ({"n": [10**7, 2]}, ("n", 1, "1", "10000000")),
    ({"share": [0.5, 0.333334]}, ("share", 2, "0.333333333", "0.333334")),
    ({"share": [0.5, float("nan")]}, ("share", 2, "0.333333333", "")),
    ({"word": ["same", "more"]}, ("word", 2, "less", "more")),
    ({"met": [False, False]}, ("met", 1, "True", "False")),
])
def test_a_changed_cell_is_named_with_both_values(change, difference, published):
    assert cells(published, TABLE.assign(**change)) == [difference]


def test_whole_numbers_are_exact_even_far_beyond_the_tolerance(published):
    large = TABLE.assign(share=[25_599_000.0, 0.0])
    published.write_text(compared.as_text(large))
    assert cells(published, large.assign(share=[25_599_001.0, 0.0])) == [
        ("share", 1, "25599000", "25599001")]


def test_patterns_written_in_digits_are_words(published):
    table = TABLE.assign(word=["1" * 40, "0" * 40])
    published.write_text(compared.as_text(table))
    assert cells(published, table.assign(word=["1" * 39 + "0", "0" * 40])) == [
        ("word", 1, "1" * 40, "1" * 39 + "0")]


def test_declared_noise_is_not_compared_and_only_that(published):
    other = TABLE.assign(seconds=[7.0, 8.0])
    assert cells(published, other, noise=("seconds",)) == []
    assert [column for column, *_ in cells(published, other)] == ["seconds", "seconds"]


def test_another_shape_is_a_difference(published):
    assert cells(published, TABLE.iloc[:1]) == [("", 0, "2 rows", "1 rows")]
    assert "columns n, share" in cells(published, TABLE.drop(columns="met"))[0][2]
    assert cells(published.with_name("none.csv"), TABLE) == [("", 0, "no table", "2 rows")]


@pytest.fixture
def save(tmp_path, monkeypatch, capsys):
    """Saves a small figure; returns what the reader is told. Folders: published/ and build/."""
    monkeypatch.setenv("FDIMLIB_FIGURES", str(tmp_path / "published"))
    monkeypatch.setenv("FDIMLIB_BUILD", str(tmp_path / "build"))
    monkeypatch.setattr(figures, "display", lambda *_, **__: None)
    figures.use_style()

    def run(refresh=False, end=1, title="", caption="A line.", seed=0, **options):
        monkeypatch.setenv("FDIMLIB_REFRESH", "1" if refresh else "")
        figures.check_parameters(preset="quick", seed=seed)
        fig, ax = plt.subplots()
        ax.plot([0, 1], [0, end])
        ax.set_title(title)
        figures.save(fig, "01_1_line", caption, preset="quick", seeds="0", method="none",
                     alt="a line", data=pd.DataFrame({"y": [0, end]}), **options)
        return capsys.readouterr().out

    yield run
    monkeypatch.setattr(parameters, "_last", parameters.Checked())


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*") if path.is_file()}


def test_the_same_figure_writes_nothing_and_says_nothing(save, tmp_path):
    assert save(refresh=True) == ""
    before = tree(tmp_path)
    assert set(before) == {"published/01_1_line.png", "published/01_1_line.pdf",
                           "published/data/01_1_line.csv"}
    assert save() == "" and tree(tmp_path) == before
    assert save(refresh=True) == "" and tree(tmp_path) == before, "nor does another refresh"


@pytest.mark.parametrize("change, told", [
    ({"end": 2}, "column y, row 2: published 1, now 2"),
    ({"title": "Other words"}, "published another picture, now one that is"),
    ({"caption": "Another line."}, "column caption, published **Figure 1.1.** A line."),
    ({"seed": 1}, "is made with preset quick, seed 1, the published one with preset quick, seed 0"),
])
def test_another_figure_goes_to_the_build_folder_and_the_reader_is_told(
    change, told, save, tmp_path,
):
    save(refresh=True)
    before = tree(tmp_path / "published")
    said = save(**change)
    assert told in said and str(tmp_path / "build" / "figures" / "01_1_line") in said
    assert tree(tmp_path / "published") == before
    assert set(tree(tmp_path / "build")) == {
        "figures/01_1_line.png", "figures/01_1_line.pdf", "figures/01_1_line.txt",
        "figures/data/01_1_line.csv"}
    assert (tmp_path / "build" / "figures" / "01_1_line.txt").read_text() == said
    assert save() == "" and tree(tmp_path / "build") == {}, "what differed once is taken away"


def test_a_picture_of_declared_noise_is_not_compared(save):
    save(refresh=True, noise=("y",))
    assert save(title="Other words", noise=("y",)) == ""


@pytest.mark.parametrize("change, same", [
    (lambda grey: grey + (grey < 255), True),  # every pixel a shade lighter
    (lambda grey: grey - 1, True),
    (lambda grey: np.where(np.arange(100) == 50, 255 - grey, grey), False),  # one column negative
])
def test_pictures_may_differ_by_a_shade_and_not_by_a_stroke(change, same, tmp_path):
    grey = np.full((80, 100), 120, dtype=np.uint8)
    grey[::3] = 240
    files = tmp_path / "before.png", tmp_path / "after.png"
    for path, pixels in zip(files, (grey, change(grey))):
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    assert (compared.differing_pixels(files[1].read_bytes(), files[0]) == []) == same


def test_a_full_disk_does_not_lose_the_comparison(save, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    save(refresh=True)
    monkeypatch.setattr("fdimlib.companion.publishing.replace", full)
    said = save(end=2)
    assert "published 1, now 2; its files cannot be written" in said
    assert "No space left on device" in said


def test_png_pdf_and_table_say_where_they_come_from(save, tmp_path, capsys):
    save(refresh=True, seed=3)
    origins = [provenance.read(tmp_path / "published" / name)
               for name in ("01_1_line.png", "01_1_line.pdf", "data/01_1_line.csv")]
    assert origins[0] == origins[1]
    assert {**origins[0], "table": "as drawn"} == origins[2]
    commit, _ = provenance.commit("unknown")
    assert (origins[0]["commit"], origins[0]["torch"]) == (commit, torch.__version__.split("+")[0])
    assert origins[0]["parameters"] == {"preset": "quick", "seed": 3}
    assert {"dirty", "package", "preset", "seeds", "method", "device"} <= set(origins[0])
    assert provenance.about(Namespace(file=tmp_path / "published" / "01_1_line.pdf")) == 0
    assert f"commit: {commit}" in capsys.readouterr().out
    table = tmp_path / "published" / "data" / "01_1_line.csv"
    table.write_text(table.read_text().replace("1", "7"))
    assert provenance.about(Namespace(file=table)) == 1
    assert "table: changed since it was drawn" in capsys.readouterr().out
    (tmp_path / "other.csv").write_text("a\n1\n")
    with pytest.raises(SystemExit, match=r"FILE: .* does not say where it comes from"):
        provenance.about(Namespace(file=tmp_path / "other.csv"))


def test_pdf_keywords_survive_brackets_backslashes_and_other_alphabets(save, tmp_path):
    save(refresh=True)
    origin = {"method": r"f(θ) \ g)", "table": ""}
    path = tmp_path / "x.pdf"
    plt.figure().savefig(path, metadata={"Keywords": provenance.as_keywords(origin)})
    plt.close()
    assert provenance.read(path) == origin


@pytest.mark.parametrize("run, problem", [
    (Run("01_a", 1.0, held=1, of=2, failed=[["1 > 2", "1"]]), "check does not hold: 1 > 2 (m"),
    (Run("01_a", 1.0, error="KeyError: x"), "01_a failed: KeyError: x"),
    (Run("01_a", 1.0, figures=[{"figure": "f", "state": "differs", "told": "f is not",
                                "differences": [{}]}]), "01_a: f is not"),
    (Run("01_a", 1.0, figures=[{"figure": "f", "state": "other", "told": "f is made with",
                                "differences": []}]), "01_a: f is made with"),
])
def test_a_report_names_what_is_not_as_published(run, problem):
    found = Report([run])
    assert not found.reproduced and problem in found.problems()[0]
    assert Report([Run("01_a", 1.0, held=2, of=2)]).reproduced
    assert not Report([], unreached=["01_a"]).reproduced


def test_a_report_names_a_claim_that_is_not_found_as_recorded():
    rows = [{"id": "E1", "recorded": "fails", "found": "fails"},
            {"id": "E2", "recorded": "holds", "found": "mixed"}]
    found = Report([Run("15_claims", 1.0)], claims={"15": rows})
    assert found.problems() == ["15_claims: claim E2: recorded holds, found mixed"]
    assert "1 of 2" in found.table() and json.loads(json.dumps(found.as_json()))
    assert Report([Run("15_claims", 1.0)], claims={"15": rows[:1]}).reproduced


def test_figures_of_another_preset_that_was_asked_for_are_no_failure():
    figure = {"figure": "f", "state": "other", "told": "f is made with", "differences": []}
    found = Report([Run("01_a", 1.0, figures=[figure])], chosen=True)
    assert found.reproduced and found.notes() == ["f is made with"]


@pytest.fixture
def training(tmp_path, monkeypatch):
    monkeypatch.setenv("FDIMLIB_BUILD", str(tmp_path))
    digits = fd.mnist_sample(60, 10)
    return fd.relu_mlp([784, 4, 10]), digits.x_train, digits.y_train


def same(ours, theirs):
    facts = [[(c.epoch, c.loss, c.accuracy, c.history) for c in kept] for kept in (ours, theirs)]
    return facts[0] == facts[1] and all(
        torch.equal(p, q) for a, b in zip(ours, theirs)
        for p, q in zip(a.model.parameters(), b.model.parameters()))


def test_a_kept_training_run_is_the_run_bit_by_bit(training, monkeypatch, tmp_path):
    wanted = dict(epochs=6, checkpoints=(2, 4))
    first = once.train_once(*training, **wanted)
    monkeypatch.setattr(once, "train", None)  # from here on nothing is trained
    again = once.train_once(*training, **wanted)
    fewer = once.train_once(*training, epochs=6, checkpoints=(4,), seed=0, lr=0.1)
    expected = fd.train(*training, progress=False, **wanted)
    assert same(first, expected) and same(again, expected) and same(fewer, expected[:1] +
                                                                    expected[2:])
    assert [path.suffix for path in sorted((tmp_path / "trained").iterdir())] == [
        ".lock", ".safetensors"]


@pytest.mark.parametrize("other", [{"seed": 1}, {"lr": 0.05}, {"epochs": 7}, {"batch_size": 9}])
def test_another_setting_is_another_run(other, training):
    wanted = dict(epochs=6, checkpoints=(2,))
    once.train_once(*training, **wanted)
    found = once.train_once(*training, **wanted | other)
    assert same(found, fd.train(*training, progress=False, **wanted | other))


def test_other_weights_inputs_and_labels_are_other_runs(training):
    model, x, y = training
    once.train_once(model, x, y, epochs=2)
    for changed in ((fd.relu_mlp([784, 4, 10], seed=1), x, y), (model, x.flip(0), y),
                    (model, x, y.flip(0))):
        expected = fd.train(*changed, epochs=2, progress=False)
        assert same(once.train_once(*changed, epochs=2), expected)


def test_a_damaged_record_is_told_and_trained_again(training, tmp_path):
    first = once.train_once(*training, epochs=2)
    path = next((tmp_path / "trained").glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.warns(UserWarning, match="cannot be used .* trained again"):
        assert same(once.train_once(*training, epochs=2), first)
    assert same(once.train_once(*training, epochs=2), first)


def test_training_goes_on_where_nothing_can_be_kept(training, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FDIMLIB_BUILD", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="takes no records"):
        found = once.train_once(*training, epochs=2)
    assert same(found, fd.train(*training, epochs=2, progress=False))


def test_what_code_depends_on_follows_its_imports_and_nothing_else():
    def names(code):
        return {path.stem for path in sources.modules_of(code)}

    training = names("from fdimlib.companion.training import train")
    assert {"training", "symmetries", "reading", "validation"} <= training
    assert not {"eliminate", "figures", "sweeps"} & training
    everything = names("import fdimlib as fd")
    assert {"eliminate", "training", "data"} <= everything
    assert not {"figures_command", "report", "sweeps"} & everything
    assert "sweeps" in names("from fdimlib.companion import sweeps") and names("import os") == set()


def test_a_digest_tells_contents_and_absence_apart(tmp_path):
    path = tmp_path / "file"
    absent = sources.digest("a", files=[path])
    path.write_text("one")
    one = sources.digest("a", files=[path])
    path.write_text("two")
    assert len({absent, one, sources.digest("a", files=[path]), sources.digest("b")}) == 4

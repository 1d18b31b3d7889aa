"""The claims file, what is judged by it, and what a planted change does."""

import copy
import json
import re
from pathlib import Path

import pandas as pd
import pytest

from fdimlib import __main__ as command_line
from fdimlib.companion import claims, claims_file, findings
from fdimlib.companion.experiments import CLASSES, HIDDEN_LAYERS, PIXELS
from fdimlib.companion.presets import PRESETS
from fdimlib.symmetries import relu_mlp

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def judged():
    return claims.judge()


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A copy of the claims file in the place of it; call it to write another."""
    file = tmp_path / "claims.json"
    original = json.loads(claims_file.FILE.read_text())
    monkeypatch.setattr(claims_file, "FILE", file)

    def write(change=lambda book: None):
        changed = copy.deepcopy(original)
        change(changed)
        file.write_text(claims_file.written(changed))
        claims_file.load.cache_clear()
        return file

    write()
    yield write
    claims_file.load.cache_clear()


def reading(book, id):
    claim, name = id.split("/", 1)
    entry = next(entry for entry in book["claims"] if entry["id"] == claim)
    return next(entry for entry in entry["judgements"] if entry["id"] == name)


@pytest.fixture
def planted(monkeypatch):
    """Change a committed rank: its table, which row, and the new value."""
    real = claims.committed

    def plant(name, value, preset="paper", **where):
        def read(table, of):
            rows = real(table, of)
            if (table, of) == (name, preset):
                rows = rows.copy()
                hit = (rows[list(where)] == list(where.values())).all(axis=1)
                assert hit.sum() == 1
                rows.loc[hit, "exact"] = value
            return rows

        monkeypatch.setattr(claims, "committed", read)

    return plant


def test_every_verdict_is_as_recorded(judged):
    """If not: look at why, then `python -m fdimlib claims --record`, and notebook 15 anew."""
    changed = {(j.id, j.setting): j.changes for j in judged if not j.same}
    assert changed == {}


def test_all_six_claims_are_judged_at_both_settings(judged):
    found = {(claims.claim(j.claim)["number"], j.setting) for j in judged
             if j.setting != claims.THEORY}
    assert found == {(number, setting) for number in range(1, 7)
                     for setting in ("released", "larger")}
    assert {j.setting for j in judged if j.authors} == {"released", "larger", claims.THEORY}


def test_a_judgement_names_a_notebook_that_exists(judged):
    assert [j.id for j in judged if not (ROOT / "notebooks" / f"{j.notebook}.ipynb").exists()] == []


def test_an_id_stands_once_for_each_setting(judged):
    assert len({(j.id, j.setting) for j in judged}) == len(judged)


def test_the_file_is_written_as_record_writes_it():
    text = claims_file.FILE.read_text(encoding="utf-8")
    assert text == claims_file.written(json.loads(text))


def test_a_planted_rank_changes_a_verdict_is_named_and_exits_with_1(planted, capsys):
    where = {"width": 10, "seed": 3, "epoch": 680, "inputs": "train", "random_labels": 0.0}
    planted("training", 1, **where)
    assert command_line.main(["claims", "training"]) == 1
    told = capsys.readouterr().out
    change = "w = 10: recorded fails (0 of 5), found mixed (1 of 5)"
    assert f"CHANGED: training/start-to-end/train, released: {change}" in told
    assert f"CHANGED: training/since-40/train, released: {change}" in told
    assert "CHANGED: training/start-to-end/test" not in told


@pytest.mark.parametrize("name, value, where, id", [
    ("full_dimension", 9, {"width": 5, "seed": 0, "epoch": 680}, "full-dimension/growing/after"),
    ("width", 1, {"width": 20, "seed": 2, "epoch": 680, "inputs": "train"}, "width/after/train"),
    ("width", 1, {"width": 10, "seed": 1, "epoch": 0, "inputs": "gaussian"}, "support/before"),
    ("labels", 1, {"width": 30, "seed": 4, "random_labels": 1.0, "inputs": "test"},
     "labels/ends/test"),
    ("noise", 1, {"width": 45, "seed": 0, "noise": 5.0, "inputs": "test"}, "noise/heavy/test"),
])
def test_every_rule_sees_a_planted_rank(planted, name, value, where, id):
    planted(name, value, **where)
    changed = [j for j in claims.judge(id.split("/")[0]) if not j.same]
    assert id in [j.id for j in changed] and {j.setting for j in changed} == {"released"}


def test_a_changed_recorded_verdict_is_named(book, capsys):
    def change(book):
        reading(book, "labels/ends/test")["recorded"]["released"]["30"] = "mixed (4 of 5)"

    book(change)
    assert command_line.main(["claims", "labels", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [entry["id"] for entry in told if not entry["same"]] == ["labels/ends/test"]
    assert command_line.main(["claims", "labels"]) == 1
    assert ("CHANGED: labels/ends/test, released: w = 30: recorded mixed (4 of 5), "
            "found holds (5 of 5, chance 1/32)") in capsys.readouterr().out


def test_a_verdict_without_record_and_a_record_without_network_are_changes(book):
    def change(book):
        recorded = reading(book, "noise/small/test")["recorded"]
        del recorded["released"]["5"]
        recorded["larger"] = {"10": "holds (5 of 5, chance 1/32)"}

    book(change)
    changed = {(j.id, j.setting): j.changes for j in claims.judge("noise") if not j.same}
    assert changed == {
        ("noise/small/test", "released"): ["w = 5: recorded nothing, found mixed (4 of 5)"],
        ("noise/small/test", "larger"):
            ["w = 10: recorded holds (5 of 5, chance 1/32), found nothing"]}


def test_a_new_row_counts_at_once(monkeypatch):
    """What is missing at the larger setting is counted, and judged when it is there."""
    preset = PRESETS["large"]
    seeds = preset.seeds_of(45)
    rows = [{"inputs": "train", "width": 45, "seed": seed, "epoch": epoch, "dead": False,
             "exact": 1000 - epoch // 10, "bound": 9999, "sample_bound": 9999}
            for seed in seeds for epoch in (0, 3000)]

    def verdict(count):
        def read(name, of):
            return pd.DataFrame(rows[:count]) if (name, of) == ("training", "large") else None
        return next(j.found["45"] for j in claims.judge("training", read=read)
                    if (j.id, j.setting) == ("training/start-to-end/train", "larger"))

    assert verdict(5) == "not yet measured (2 of 3 networks)"
    assert verdict(6) == "holds (3 of 3, chance 1/8)"


def test_record_writes_what_is_found_and_nothing_else(book, planted, tmp_path, monkeypatch, capsys):
    readme = tmp_path / "README.md"
    readme.write_text(findings.README.read_text())
    monkeypatch.setattr(findings.write_readme, "__defaults__", (readme,))
    before = json.loads(book().read_text())
    planted("labels", 1, width=45, seed=0, random_labels=1.0, inputs="test")
    assert command_line.main(["claims", "--record"]) == 0
    after = json.loads(claims_file.FILE.read_text())
    reading(before, "labels/ends/test")["recorded"]["released"]["45"] = "mixed (2 of 3)"
    assert after == before
    assert "mixed at w = 45 (2 of 3)" in readme.read_text()
    assert "readings changed in claims.json: 1" in capsys.readouterr().out
    assert all(j.same for j in claims.judge())


def misspelt(part):
    def change(book):
        entry = reading(book, "labels/ends/test")
        match part:
            case "field":
                entry["notbook"] = entry.pop("notebook")
            case "missing":
                del entry["change"]
            case "table":
                entry["table"] = "lables"
            case "rule":
                entry["rule"]["is"] = "directon"
            case "rule's field":
                entry["rule"]["colum"] = entry["rule"].pop("column")
            case "rule's missing field":
                del entry["rule"]["sign"]
            case "inputs":
                entry["rule"]["inputs"] = "tets"
            case "setting":
                entry["recorded"]["released setting"] = {}
            case "change":
                entry["change"] = "epoch 0 → {lats}"
            case "column":
                entry["rule"]["column"] = "random_label"
    return change


@pytest.mark.parametrize("part, message", [
    ("field", "judgement labels/ends/test: field: found 'notbook'; choose among id, change"),
    ("missing", "judgement labels/ends/test: lacks change"),
    ("table", "labels/ends/test: table: found 'lables'; choose among training, width"),
    ("rule", "labels/ends/test: rule: found 'directon'; choose among direction, close"),
    ("rule's field", "labels/ends/test: field of the rule 'direction': found 'colum'; choose"),
    ("rule's missing field", "labels/ends/test: rule 'direction': .*'sign'"),
    ("inputs", "labels/ends/test: inputs: found 'tets'; choose among train, test"),
    ("setting", "labels/ends/test: recorded: found 'released setting'; choose among released"),
    ("change", "labels/ends/test: change: found {lats}; choose among {last}"),
    ("column", "labels/ends/test: table labels_paper: has no column or value 'random_label'"),
])
def test_a_misspelt_name_in_the_file_is_told_with_its_place(book, part, message, capsys):
    book(misspelt(part))
    assert command_line.main(["claims"]) == 2
    assert re.search("^claims: .*" + message, capsys.readouterr().err)


def test_a_torn_file_is_named(book, capsys):
    book().write_text('{"settings": [')
    claims_file.load.cache_clear()
    assert command_line.main(["claims"]) == 2
    assert capsys.readouterr().err.startswith("claims: claims.json: Expecting value")


def test_all_verdicts_are_recorded_or_none(capsys):
    assert command_line.main(["claims", "labels", "--record"]) == 2
    assert "--record: found labels; it takes no claim" in capsys.readouterr().err


def test_a_misspelt_claim_is_told_with_those_that_exist(capsys):
    assert command_line.main(["claims", "lables"]) == 2
    assert re.match(r"claims: id: found 'lables'; choose among .*labels", capsys.readouterr().err)


def test_without_a_clone_it_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(claims, "REPOSITORY", tmp_path)
    assert command_line.main(["claims", "training"]) == 2
    assert "run this from a clone" in capsys.readouterr().err


def test_a_theorem_falls_with_a_check_of_its_notebook(monkeypatch, tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for path in (ROOT / "notebooks").glob("0*.ipynb"):
        text = path.read_text()
        if path.stem == "06_sampling":
            text = re.sub(r'"held": (\d+)', lambda m: f'"held": {int(m[1]) - 1}', text)
        (folder / path.name).write_text(text)
    monkeypatch.setattr(claims, "REPOSITORY", tmp_path)
    entries = {entry["id"]: entry for entry in claims_file.load()["theorems"]}
    found = {id: claims._theorem(entry) for id, entry in entries.items()}
    assert {entry["recorded"]["checks"] for entry in entries.values()} == {"all hold"}
    assert [id for id, judgement in found.items() if not judgement.same] == ["sampling"]
    assert re.fullmatch(r"\d+ of \d+ hold", found["sampling"].found["checks"])


def test_the_readme_has_the_table_that_the_claims_file_gives():
    text = findings.README.read_text(encoding="utf-8")
    assert findings.in_readme(text) == text
    with pytest.raises(ValueError, match="README: the lines"):
        findings.in_readme("no markers")


def test_what_holds_comes_first(judged):
    told = {j.id: findings.words(j.found) for j in judged if j.setting == "released"}
    assert told["labels/ends/test"].startswith("holds at w = 30 (5 of 5), 45 (3 of 3); not claimed")
    order = [entry["number"] for entry in claims_file.load()["claims"]]
    holding = [number for number in order
               if any(j.headline and "holds" in told[j.id] for j in judged
                      if j.id in told and claims.claim(j.claim)["number"] == number)]
    assert holding == order[:len(holding)]


TOLD = [
    ("at width 30 in 4 of 5, at 45 in 2 of 3, at 15 in 3 of 5", "training/early/test",
     {"30": "mixed (4 of 5)", "45": "mixed (2 of 3)", "15": "mixed (3 of 5)"}),
    ("falls by up to one percent in all networks of widths 10, 20 and 30", "training/growing",
     dict.fromkeys(["10", "20", "30"], "holds (5 of 5, chance 1/32)")),
    ("lower after training in five of five, at 15 in four of five", "training/growing",
     {"15": "mixed (4 of 5)"}),
    ("lower in 5 of 5 at width 10, in 4 of 5 at width 5", "labels/ends/test",
     {"10": "not claimed (0 of 5 rise)", "5": "not claimed (1 of 5 rise)"}),
    ("raises the rank in 4 of 5 at width 5, on both samples", "noise/small/train",
     {"5": "mixed (4 of 5)"}),
    ("raises it on test digits at 45 in 3 of 3 (chance 1/8), at 20 and 30 in 4 of 5",
     "noise/heavy/test", {"45": "holds (3 of 3, chance 1/8)", "20": "mixed (4 of 5)",
                          "30": "mixed (4 of 5)", "10": "fails (0 of 5)", "5": "fails (0 of 5)"}),
    ("at widths 5 to 20 after training, in every network (chance 1/32 each); it is mixed at 2 and "
     "3", "support/after",
     dict.fromkeys(["5", "10", "15", "20"], "holds (5 of 5, chance 1/32)")
     | dict.fromkeys(["2", "3"], "mixed (2 of 4)")),
    ("smaller on digits as well, from width 10 on in every network", "support/before",
     dict.fromkeys(["10", "15", "20"], "holds (5 of 5, chance 1/32)") | {"5": "mixed (3 of 5)"}),
]


@pytest.mark.parametrize("phrase, id, verdicts", TOLD, ids=[id for _, id, _ in TOLD])
def test_what_notebook_15_tells_in_prose_is_recorded(phrase, id, verdicts, judged):
    cells = json.loads((ROOT / "notebooks" / "15_claims.ipynb").read_text())["cells"]
    prose = " ".join(word for cell in cells if cell["cell_type"] == "markdown"
                     for word in "".join(cell["source"]).split())
    assert phrase in prose
    recorded = next(j.recorded for j in judged if (j.id, j.setting) == (id, "released"))
    assert verdicts.items() <= recorded.items()


def test_the_settings_that_notebook_15_tells_are_those_of_the_presets():
    paper, large = PRESETS["paper"], PRESETS["large"]
    seeds = {name: {w: len(sizes.seeds_of(w)) for w in sizes.widths}
             for name, sizes in (("paper", paper), ("large", large))}
    assert (min(paper.widths), max(paper.widths)) == (2, 60)
    assert {w: n for w, n in seeds["paper"].items() if n != 5} == {45: 3, 60: 3}
    assert (min(large.widths), max(large.widths)) == (5, 45)
    assert {w: n for w, n in seeds["large"].items() if n != 5} == {10: 10, 45: 3}
    titles = [setting.title for setting in claims_file.settings().values()]
    for title, sizes in zip(titles, (paper, large)):
        assert title.startswith(f"{sizes.n_train:,} training digits, "
                                f"{sizes.checkpoints[-1]:,} epochs")


def test_the_numbers_of_what_decides_are_computed():
    """Sample bounds, sizes and widths in the column "what decides between them"."""
    paper, large = PRESETS["paper"], PRESETS["large"]
    rows = {name: [(CLASSES - 1) * n for n in (sizes.n_train, sizes.n_test)]
            for name, sizes in (("paper", paper), ("large", large))}

    def parameters(width):
        net = relu_mlp([PIXELS, *[width] * HIDDEN_LAYERS, CLASSES])
        return sum(p.numel() for p in net.parameters())

    wide, widest = 30, max(large.widths)
    known = {paper.n_train, paper.n_test, large.n_train, large.n_test, *rows["paper"],
             *rows["large"], wide, widest, parameters(wide), parameters(widest), 20}
    assert parameters(wide) < rows["large"][1] < parameters(widest) < rows["large"][0]
    told = {int(number.replace(",", "")) for entry in claims_file.load()["claims"]
            for number in re.findall(r"\d[\d,]*\d|\d", entry["between"])}
    assert told <= known, told - known
    training = claims.committed("labels", "paper")
    at = training[(training.random_labels == 0) & (training.inputs == "train")]
    full = (at.exact == at.sample_bound).groupby(at.width).all()
    assert min(full.index[full]) == 20

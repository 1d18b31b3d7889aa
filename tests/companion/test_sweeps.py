"""Sweeps that survive: killed, doubled, damaged, out of space, interrupted, handed to a cluster."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from fdimlib import __main__ as command_line
from fdimlib.companion import experiments, sweeps
from fdimlib.companion.experiments import Point, Run
from fdimlib.companion.records import Records, table

POINTS = [Point(Run(2, seed, n_train=20), epoch, "train", 20) for seed in range(12) for epoch in (0, 1)]
# Computes what is missing and prints the key of every point that it computes, as soon as it is recorded.
SWEEP = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a background shell starts would ignore it
from test_sweeps import POINTS
from fdimlib.companion import sweeps
from fdimlib.companion.records import Records

class Telling(Records):
    def put(self, point, **outcome):
        super().put(point, **outcome)
        print(point.key, flush=True)

sweeps.sweep(POINTS, Telling(sys.argv[1]), progress=False)
"""


def start(folder):
    return subprocess.Popen([sys.executable, "-c", SWEEP, str(folder)], cwd=os.path.dirname(__file__), text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finished(folder):
    """File → when it was written, of every record."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")}


def test_a_killed_sweep_loses_nothing_finished_and_computes_nothing_twice(tmp_path):
    rng, kept = random.Random(0), {}
    for _ in range(3):
        process = start(tmp_path)
        for _ in range(rng.randint(1, 5)):
            process.stdout.readline()
        time.sleep(rng.random() / 50)
        process.kill()
        process.communicate()
        now = finished(tmp_path)
        assert kept.items() <= now.items(), "a finished record was lost or written again"
        assert all("result" in json.loads((tmp_path / name).read_text()) for name in now), "a record is incomplete"
        kept = now
    assert 0 < len(kept) < len(POINTS)
    sweeps.sweep(POINTS, Records(tmp_path), progress=False)
    assert kept.items() <= finished(tmp_path).items()
    assert len(table(Records(tmp_path), POINTS)) == len(POINTS)


def test_two_sweeps_at_once_share_the_work(tmp_path):
    outputs = [process.communicate() for process in [start(tmp_path), start(tmp_path)]]
    assert [error for _, error in outputs] == ["", ""]
    first, second = (output.split() for output, _ in outputs)
    assert sorted(first + second) == sorted(point.key for point in POINTS)


def test_interrupted_sweeps_go_on(tmp_path):
    process = start(tmp_path)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate()
    kept = finished(tmp_path)
    assert process.returncode != 0 and 0 < len(kept) < len(POINTS) and not list(tmp_path.glob("*.tmp"))
    assert sweeps.sweep(POINTS, Records(tmp_path), progress=False) == []
    assert kept.items() <= finished(tmp_path).items()


@pytest.fixture
def point(tmp_path):
    """The first point, recorded."""
    sweeps.sweep(POINTS[:1], Records(tmp_path), progress=False)
    return POINTS[0]


DAMAGES = {
    "truncated": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "another point's": lambda text: text.replace('"seed": 0', '"seed": 1'),
    "another protocol's": lambda text: text.replace(f'"protocol": {experiments.PROTOCOL}', '"protocol": 0'),
    "foreign": lambda text: "[1, 2]",
    "without an outcome": lambda text: text.replace('"result"', '"resolt"'),
    "binary": lambda text: "\udcff\udcfe",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_is_set_aside_and_computed_again(damage, point, tmp_path):
    path, records = tmp_path / f"{point.key}.json", Records(tmp_path)
    good = records.get(point)
    path.write_bytes(DAMAGES[damage](path.read_text()).encode(errors="surrogateescape"))
    with pytest.warns(UserWarning, match=f"record {path.name} cannot be used .*set aside as {point.key}.aside-0"):
        assert records.get(point) is None
    assert sweeps.sweep([point], records, progress=False) == []
    assert sweeps.ranks(records.get(point)) == sweeps.ranks(good)
    assert len(list(tmp_path.glob("*.aside-*"))) == 1


def test_a_full_disk_stops_the_sweep_and_loses_nothing(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        with pytest.raises(OSError, match=r"cannot be written .*make room and start again.*'exact'"):
            sweeps.sweep(POINTS, Records(disk), progress=False)
        kept = finished(disk)
        assert kept and not list(disk.glob("*.tmp"))
        subprocess.run(["mount", "-o", "remount,size=10m", str(disk)], check=True)
        assert sweeps.sweep(POINTS, Records(disk), progress=False) == []
        assert kept.items() <= finished(disk).items()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_failing_point_is_recorded_and_does_not_stop_the_rest(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise MemoryError("needs 10 bytes, 9 are free")

    bad = [Point(POINTS[0].run, 0, "growing", 100), Point(Run(2, 0, n_train=5000), 1, "train", 20)]
    monkeypatch.setattr(sweeps, "full_functional_dimension", refuse)
    records = Records(tmp_path)
    assert set(sweeps.sweep([*bad, *POINTS], records, progress=False)) == set(bad)
    assert records.error(bad[0]) == "MemoryError: needs 10 bytes, 9 are free"
    assert records.error(bad[1]).startswith("training: ValueError: n_train, n_test: found 5000 + 1")
    assert [records.state(p) for p in bad] == ["failed"] * 2 and all(records.get(p) for p in POINTS)
    monkeypatch.undo()
    assert sweeps.sweep(bad[:1], records, progress=False) == [], "a failed point is tried again"


def test_a_published_table_counts_as_done(tmp_path):
    svd = Point(POINTS[0].run, 0, "train", 20, "svd")
    points, records = [svd, *POINTS[:4]], Records(tmp_path)
    sweeps.sweep(points, records, progress=False)
    table(records, points).to_csv(tmp_path / "x.csv", index=False)
    again = Records(tmp_path / "nowhere", [tmp_path / "x.csv"])
    assert [again.get(p) for p in points] == [records.get(p) for p in points]
    pd.testing.assert_frame_equal(table(again, points), table(records, points))
    old = (tmp_path / "x.csv").read_text().replace(f"{POINTS[1].key},{experiments.PROTOCOL},", f"{POINTS[1].key},0,")
    (tmp_path / "x.csv").write_text(old)
    assert Records(tmp_path / "nowhere", [tmp_path / "x.csv"]).get(POINTS[1]) is None, "another protocol's row is not read"


def test_results_of_large_presets_come_from_the_records(tmp_path, monkeypatch):
    records = Records(tmp_path)
    monkeypatch.setattr(experiments, "TABLES", {"tiny": lambda sizes: POINTS[:3]})
    monkeypatch.setattr(sweeps, "all_records", lambda: records)
    with pytest.raises(LookupError, match=r"no records of tiny at .paper.; python -m fdimlib sweep tiny"):
        sweeps.results("tiny", "paper")
    sweeps.sweep(POINTS[:2], records, progress=False)
    found = sweeps.results("tiny", "paper")
    assert len(found) == 2
    assert sweeps.account(found, "tiny", "paper").endswith("the other 1: python -m fdimlib sweep tiny --preset paper")
    anew = sweeps.results("tiny", "quick")
    assert len(anew) == 3 and anew.exact.tolist()[:2] == found.exact.tolist()


@pytest.mark.parametrize("cluster", ["debug", "local"])
def test_submitit_writes_the_same_records(cluster, tmp_path):
    records, expected = Records(tmp_path / cluster), Records(tmp_path / "here")
    sweeps.submit(POINTS[:4], records, cluster, "cpu", {"timeout_min": 5})
    sweeps.sweep(POINTS[:4], expected, progress=False)
    assert [sweeps.ranks(records.get(p)) for p in POINTS[:4]] == [sweeps.ranks(expected.get(p)) for p in POINTS[:4]]


def test_the_command_line_sweeps_counts_and_repeats(tmp_path, monkeypatch, capsys):
    svd = Point(POINTS[1].run, POINTS[1].epoch, "train", 20, "svd")
    monkeypatch.setattr(experiments, "TABLES", {"tiny": lambda sizes: [*POINTS[:3], svd]})
    monkeypatch.setattr(sweeps, "REPOSITORY", tmp_path)
    folder = ["--records", str(tmp_path / "records")]
    assert command_line.main(["status", *folder]) == 1
    assert capsys.readouterr().out.split()[-5:] == ["4", "0", "0", "0", "4"]
    assert command_line.main(["sweep", "tiny", *folder]) == 0
    assert capsys.readouterr().out.split()[-5:] == ["4", "4", "0", "0", "0"]
    published = pd.read_csv(tmp_path / "figures" / "data" / "tiny_quick.csv")
    assert set(published.columns) >= {"seed", "exact", "bound", "verified", "loss", "accuracy", "seconds", "torch", "weights"}
    assert command_line.main(["rerun", published.key[1], *folder]) == 0
    printed = capsys.readouterr().out
    assert printed.count("the weights are the same, bit by bit; the ranks agree") == 2, "the exact rank and the numerical ones"
    with pytest.raises(SystemExit, match="names no point"):
        command_line.main(["rerun", "0" * 16, *folder])
    with pytest.raises(SystemExit, match="experiment: found wide; choose among tiny"):
        command_line.main(["sweep", "wide", *folder])


def test_numerical_ranks_of_other_weights_are_left_out(tmp_path):
    svd, records = Point(POINTS[0].run, 0, "train", 20, "svd"), Records(tmp_path)
    sweeps.sweep([svd, POINTS[0]], records, progress=False)
    assert table(records, POINTS[:1]).svd_float32_softmax.notna().all()
    records.put(svd, result=records.get(svd) | {"weights": "others"})
    assert table(records, POINTS[:1]).svd_float32_softmax.isna().all()


def test_the_published_tables_are_sound_and_show_one_network_for_each_run_and_epoch():
    tables = [pd.read_csv(path) for name in experiments.TABLES if (path := sweeps.published(name, "paper")).exists()]
    rows = pd.concat(tables, ignore_index=True)
    assert len(tables) == 5 and (rows.protocol == experiments.PROTOCOL).all() and sweeps.sound(rows)
    assert (rows.exact <= rows[["sample_bound", "parameter_bound"]].min(axis=1)).all()
    run = ["width", "seed", "n_train", "noise", "random_labels", "digits", "epoch"]
    assert (rows.groupby(run).weights.nunique() == 1).all()
    fields = rows[[*run, "inputs", "samples"]].assign(method="exact").to_dict("records")
    assert [Point.from_fields(setting).key for setting in fields] == rows.key.tolist()


def test_keys_are_those_of_the_settings():
    """Fixed for good: a change here orphans every published record, and calls for another PROTOCOL."""
    assert Point(Run(30, 0), 680, "test", 2000).key == "2236aef14a832aee"
    assert len({point.key for tables in map(experiments.experiments, experiments.PRESETS) for points in tables.values()
                for point in points}) > 1000

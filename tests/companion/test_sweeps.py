"""Sweeps that survive: killed, doubled, damaged, out of space, interrupted, handed to a cluster."""

import json
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest

import fdimlib as fd
from fdimlib import __main__ as command_line
from fdimlib.companion import experiments, measurements, sweeps
from fdimlib.companion.experiments import PROTOCOL, Point, Run
from fdimlib.companion.records import Records, table

POINTS = [Point(Run(2, seed, n_train=20), epoch, "train", 20)
          for seed in range(12) for epoch in (0, 1)]
# Computes what is missing and prints the key of every point as soon as it is recorded. What a shell
# starts in the background ignores interrupts unless told otherwise.
SWEEP = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
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
    return subprocess.Popen([sys.executable, "-c", SWEEP, str(folder)], cwd=Path(__file__).parent,
                            text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finished(folder):
    """File → when it was written, of every record."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")}


@pytest.mark.slow
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
        assert all("result" in json.loads((tmp_path / name).read_text()) for name in now)
        kept = now
    assert 0 < len(kept) < len(POINTS)
    sweeps.sweep(POINTS, Records(tmp_path), progress=False)
    assert kept.items() <= finished(tmp_path).items()
    assert len(table(Records(tmp_path), POINTS)) == len(POINTS)


@pytest.mark.slow
def test_two_sweeps_at_once_share_the_work(tmp_path):
    outputs = [process.communicate() for process in [start(tmp_path), start(tmp_path)]]
    assert [error for _, error in outputs] == ["", ""]
    first, second = (output.split() for output, _ in outputs)
    assert sorted(first + second) == sorted(point.key for point in POINTS)


@pytest.mark.slow
def test_interrupted_sweeps_go_on(tmp_path):
    process = start(tmp_path)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate()
    kept = finished(tmp_path)
    assert process.returncode != 0 and 0 < len(kept) < len(POINTS)
    assert not list(tmp_path.glob("*.tmp"))
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
    "another protocol's": lambda text: text.replace(f'"protocol": {PROTOCOL}', '"protocol": 0'),
    "foreign": lambda text: "[1, 2]",
    "without an outcome": lambda text: text.replace('"result"', '"resolt"'),
    "binary": lambda text: "\udcff\udcfe",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_is_set_aside_and_computed_again(damage, point, tmp_path):
    path, records = tmp_path / f"{point.key}.json", Records(tmp_path)
    good = records.get(point)
    path.write_bytes(DAMAGES[damage](path.read_text()).encode(errors="surrogateescape"))
    damaged = path.read_bytes()
    message = f"record {path.name} cannot be used .*its point counts as missing until a sweep"
    with pytest.warns(UserWarning, match=message):
        assert records.get(point) is None and records.state(point) == "missing"
    assert path.read_bytes() == damaged, "asking moves nothing"
    with pytest.warns(UserWarning, match=message):
        assert sweeps.sweep([point], records, progress=False) == []
    assert sweeps.ranks(records.get(point)) == sweeps.ranks(good)
    assert [aside.read_bytes() for aside in tmp_path.glob(f"{point.key}.aside-0")] == [damaged]


def test_asking_writes_nothing(tmp_path):
    records = Records(tmp_path / "records")
    assert {records.state(point) for point in POINTS} == {"missing"}
    assert list(tmp_path.iterdir()) == []


def test_a_run_in_hand_is_seen_as_running_and_can_be_claimed_while_others_ask(tmp_path):
    records, run = Records(tmp_path), POINTS[0].run
    with records.claim(run) as mine:
        assert mine and Records(tmp_path).state(POINTS[0]) == "running"
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        assert Records(tmp_path).state(POINTS[-1]) == "missing"
        assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert records.state(POINTS[0]) == "missing"
    asking = threading.Event()

    def ask():
        while not asking.is_set():
            Records(tmp_path).state(POINTS[0])

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for _ in range(200):
            with records.claim(run) as mine:
                assert mine
    finally:
        asking.set()
        thread.join()


def test_a_full_disk_stops_the_sweep_and_loses_nothing(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        message = r"cannot be written .*make room and start again.*'exact'"
        with pytest.raises(OSError, match=message):
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
    monkeypatch.setattr(measurements, "full_functional_dimension", refuse)
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
    path, nowhere = tmp_path / "x.csv", tmp_path / "nowhere"
    table(records, points).to_csv(path, index=False)
    again = Records(nowhere, [path])
    assert [again.get(p) for p in points] == [records.get(p) for p in points]
    pd.testing.assert_frame_equal(table(again, points), table(records, points))
    key = POINTS[1].key
    path.write_text(path.read_text().replace(f"{key},{PROTOCOL},", f"{key},0,"))
    assert Records(nowhere, [path]).get(POINTS[1]) is None, "another protocol's row is not read"


def test_results_of_large_presets_come_from_the_records(tmp_path, monkeypatch):
    records = Records(tmp_path)
    monkeypatch.setattr(experiments, "TABLES", {"tiny": lambda sizes: POINTS[:3]})
    monkeypatch.setattr(sweeps, "all_records", lambda: records)
    advice = "python -m fdimlib sweep tiny --preset paper"
    with pytest.raises(LookupError, match=f"no records of tiny at .paper.; {advice}"):
        sweeps.results("tiny", "paper")
    sweeps.sweep(POINTS[:2], records, progress=False)
    found = sweeps.results("tiny", "paper")
    assert len(found) == 2
    assert sweeps.account(found, "tiny", "paper").endswith(f"the other 1: {advice}")
    anew = sweeps.results("tiny", "quick")
    assert len(anew) == 3 and anew.exact.tolist()[:2] == found.exact.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("cluster", ["debug", "local"])
def test_submitit_writes_the_same_records(cluster, tmp_path):
    records, expected = Records(tmp_path / cluster), Records(tmp_path / "here")
    sweeps.submit(POINTS[:4], records, cluster, "cpu", {"timeout_min": 5})
    sweeps.sweep(POINTS[:4], expected, progress=False)
    for point in POINTS[:4]:
        assert sweeps.ranks(records.get(point)) == sweeps.ranks(expected.get(point))


def test_the_command_line_sweeps_counts_and_repeats(tmp_path, monkeypatch, capsys):
    svd = Point(POINTS[1].run, POINTS[1].epoch, "train", 20, "svd")
    monkeypatch.setattr(experiments, "TABLES", {"tiny": lambda sizes: [*POINTS[:3], svd]})
    monkeypatch.setattr(experiments, "REPOSITORY", tmp_path)
    folder = ["--records", str(tmp_path / "records")]
    assert command_line.main(["status", *folder]) == 1
    assert capsys.readouterr().out.split()[-5:] == ["4", "0", "0", "0", "4"]
    assert command_line.main(["sweep", "tiny", *folder]) == 0
    assert capsys.readouterr().out.split()[-5:] == ["4", "4", "0", "0", "0"]
    published = pd.read_csv(tmp_path / "figures" / "data" / "tiny_quick.csv")
    assert set(published.columns) >= {"seed", "exact", "bound", "verified", "loss", "accuracy",
                                      "seconds", "torch", "weights"}
    assert command_line.main(["rerun", published.key[1], *folder]) == 0
    printed = capsys.readouterr().out
    agreement = "the weights are the same, bit by bit; the ranks agree"
    assert printed.count(agreement) == 2, "the exact rank and the numerical ones"
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


def test_keys_are_those_of_the_settings():
    """Fixed for good: a change here orphans every published record, and calls for a PROTOCOL."""
    assert Point(Run(30, 0), 680, "test", 2000).key == "2236aef14a832aee"
    points = {point for preset in experiments.PRESETS
              for table in experiments.experiments(preset).values() for point in table}
    assert len({point.key for point in points}) == len(points) > 1000


def test_runs_and_points_do_not_share_their_keys():
    points = {point for table in experiments.experiments("paper").values() for point in table}
    runs = {point.run for point in points}
    keys = {run.key for run in runs} | {point.key for point in points}
    assert len(keys) == len(runs) + len(points)


def test_a_preset_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="preset: found 'fast'; use one of 'quick', 'paper'"):
        fd.get_preset("fast")


@pytest.mark.parametrize("method, column", [("explain", "explained"), ("losses", "losses")])
def test_other_measurements_have_tables_that_count_as_records(method, column, tmp_path):
    exact = POINTS[1]
    point = Point.from_fields(exact.fields | {"method": method, "epoch": 2})
    records = Records(tmp_path / "records")
    assert sweeps.sweep([point], records, progress=False) == []
    path = tmp_path / "table.csv"
    table(records, [point]).to_csv(path, index=False)
    again = Records(tmp_path / "none", [path]).get(point)
    assert again == records.get(point) and column in again


def test_the_explained_dimensions_are_those_of_the_explanation(tmp_path):
    point = Point.from_fields(POINTS[1].fields | {"method": "explain", "epoch": 0})
    records = Records(tmp_path)
    sweeps.sweep([point], records, progress=False)
    digits = fd.mnist_sample(point.samples, 1, seed=point.run.seed)
    net = fd.relu_mlp(point.run.layers, seed=point.run.seed)
    why = fd.explain(net, digits.x_train, head="softmax", progress=False)
    found = records.get(point)
    assert found["explained"] == why.explained and found["parameters"] == why.dimension.parameters
    blind = [count for term, _, count in why.terms if term == "blind spots"]
    assert [found[f"blind_spots_{layer}"] for layer in range(1, 5)] == blind

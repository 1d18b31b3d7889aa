"""How long `fdimlib figures` takes, against an earlier commit: python benchmarks/reproduction.py.

Both run from nothing, by turns, in clones of their own under one temporary folder, in this
interpreter; what is told are ratios. Then ours runs once more with nothing changed.

    python benchmarks/reproduction.py 7b413d0 --only 00 10 --rounds 2
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def clone(commit, folder):
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    subprocess.run(["git", "-C", str(folder), "checkout", "--quiet", commit], check=True)
    return folder


def seconds(folder, *arguments):
    """Of one `fdimlib` command in a clone, and its exit status."""
    environment = os.environ | {"PYTHONPATH": str(folder), "FDIMLIB_BUILD": str(folder / "build")}
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "fdimlib", *arguments], cwd=folder,
                          env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start, done.returncode


def from_nothing(folder, only):
    shutil.rmtree(folder / "build", ignore_errors=True)
    return seconds(folder, "figures", *only)[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("former", help="the commit to compare with")
    parser.add_argument("--only", nargs="+", default=[], help="notebooks; default: all")
    parser.add_argument("--rounds", type=int, default=1, help="by turns, so often (default: 1)")
    options = parser.parse_args()
    only = ["--only", *options.only] if options.only else []
    with tempfile.TemporaryDirectory() as scratch:
        former = clone(options.former, Path(scratch) / "former")
        ours = clone("HEAD", Path(scratch) / "ours")
        rounds = [(from_nothing(former, only), from_nothing(ours, only))
                  for _ in range(options.rounds)]
        again, status = seconds(ours, "figures", *only)
        helped = [seconds(folder, "--help")[0] for folder in (former, ours)]
    before, now = (statistics.median(times) for times in zip(*rounds))
    print(f"from nothing: {now:.0f} s against {before:.0f} s, {now / before:.2f} of it")
    print(f"again with nothing changed: {again:.1f} s (exit status {status})")
    print(f"--help: {helped[1]:.2f} s against {helped[0]:.2f} s")


if __name__ == "__main__":
    main()

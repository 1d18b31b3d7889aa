"""How fast the exact rank of networks of other makes is; writes benchmarks/other_networks.md.

    python benchmarks/other_networks.py                  everything, about 10 minutes on 2 cores
    python benchmarks/other_networks.py --only lenet     some rows; the others stay as other_networks.json has them

Every ratio comes from one process, the contestants taking turns; times are medians, in seconds of the clock and of the
processor: on a machine that does other work meanwhile, the latter say more. Peak memory is that of a process of its own.
"""

import argparse
import copy
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch
from rank import machine, resident
from torch import nn
from torch.nn import functional as F

import fdimlib as fd

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "other_networks.json"


def lenet(n):
    """LeNet-5 on real digits, with a softmax."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10), nn.Softmax(dim=1))
    return net.eval(), fd.mnist_sample(n, 1).x_train.reshape(n, 1, 28, 28)


class Block(nn.Module):
    """Two convolutions and a shortcut, which drops every other pixel and pads channels where the shape changes."""

    def __init__(self, before, after, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.stride, self.added = stride, after - before

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.added:
            half = self.added // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half))
        return F.relu(x + y)


class ResNet20(nn.Module):
    """He, Zhang, Ren, Sun (2016), section 4.2, for images of 32 × 32 × 3."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
        self.blocks = nn.Sequential(*(Block(a, b, 1 + (a < b)) for a, b in itertools.pairwise(widths)))
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        x = self.blocks(F.relu(self.bn(self.conv(x))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def resnet(n):
    """At initial weights, with the statistics of random images."""
    torch.manual_seed(0)
    net = ResNet20().train()
    with torch.no_grad():
        for _ in range(20):
            net(torch.randn(32, 3, 32, 32))
    return net.eval(), torch.randn(n, 3, 32, 32)


def large(n):
    """Ten million parameters, on Gaussian inputs."""
    return fd.relu_mlp([784, 2500, 2500, 640, 10], seed=0), fd.gaussian_inputs(n)


def disguised(n):
    """The authors' network behind an Identity, so that it is traced."""
    net = fd.relu_mlp([784, 30, 30, 30, 10], seed=0)
    return nn.Sequential(nn.Identity(), *copy.deepcopy(net)), fd.mnist_sample(n, 1).x_train


CASES = {"lenet": lenet, "resnet": resnet, "large": large, "disguised": disguised}


def exact(net, x):
    return fd.batch_functional_dimension(net, x, progress=False)


def take_turns(repeats, **contestants):
    """Median seconds of the clock and of the processor for each, and its last result."""
    times, results = {name: [] for name in contestants}, {}
    for _ in range(repeats):
        for name, call in contestants.items():
            start = time.perf_counter(), time.process_time()
            results[name] = call()
            times[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return {name: tuple(map(median, zip(*values))) for name, values in times.items()}, results


def in_own_process(case, n):
    call = [sys.executable, __file__, "--measure", case, str(n)]
    return json.loads(subprocess.run(call, check=True, capture_output=True, text=True).stdout)


def measure(case, n):
    net, x = CASES[case](n)
    exact(net, x[:2])  # what is imported, and traced, the first time
    start = time.perf_counter(), time.process_time()
    dim = exact(net, x)
    print(json.dumps({"rank": int(dim), "bound": dim.bound, "verified": dim.verified, "total": resident("VmHWM"),
                      "clock": time.perf_counter() - start[0], "processor": time.process_time() - start[1]}))


def against_lu():
    net, x = lenet(1000)
    exact(net, x[:2])
    matrix = torch.randn(9000, 9000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    seconds, results = take_turns(3, lu=lambda: torch.linalg.lu_factor(matrix), exact=lambda: exact(net, x))
    clock, processor = (a / b for a, b in zip(seconds["exact"], seconds["lu"]))
    peak = in_own_process("lenet", 1000)["total"]
    return ("LeNet-5 (P = 61,706), 1,000 digits, softmax: against float64 `torch.linalg.lu_factor` of a 9000 × 9000 matrix",
            "under 2×, under 4 GB",
            f"{clock:.2f}× by the clock ({seconds['exact'][0]:.1f} s against {seconds['lu'][0]:.1f} s), {processor:.2f}× by the "
            f"processor; rank {int(results['exact']):,}, {peak / 1e9:.1f} GB", clock < 2 and peak < 4e9)


def of_resnet():
    found = in_own_process("resnet", 200)
    return ("ResNet-20 (P = 269,722), 200 images of 32 × 32 × 3, logits", "under 5 min, under 6 GB",
            f"{found['clock']:.0f} s by the clock, {found['processor']:.0f} s of the processor; rank {found['rank']:,} of at most "
            f"{found['bound']:,}, {found['total'] / 1e9:.1f} GB", found["clock"] < 300 and found["total"] < 6e9)


def of_large():
    found = in_own_process("large", 500)
    return ("784-2500-2500-640-10 (P = 9.8 million), 500 inputs", "under 1 min, under 6 GB",
            f"{found['clock']:.0f} s by the clock, {found['processor']:.0f} s of the processor; rank {found['rank']:,} of at most "
            f"{found['bound']:,}, {found['total'] / 1e9:.1f} GB", found["clock"] < 60 and found["total"] < 6e9)


def through_tracing():
    traced, x = disguised(600)
    plain = traced[1:]
    exact(traced, x[:2])
    seconds, results = take_turns(7, plain=lambda: exact(plain, x), traced=lambda: exact(traced, x))
    assert results["plain"] == results["traced"]
    seen = seconds["traced"][0] - seconds["plain"][0]
    return ("784-30-30-30-10, n = 600, behind an Identity: what tracing adds to the direct path", "–",
            f"{seen:.2f} s to {seconds['plain'][0]:.2f} s", True)


def by_singular_values():
    """What the float64 Jacobian and its singular values would need, in bytes; not computed."""
    sizes = {"LeNet-5, 1,000 digits": (10_000, 61_706), "ResNet-20, 200 images": (2_000, 269_722)}
    return ("the first two by the float64 Jacobian and `svdvals`", "–",
            "; ".join(f"{name}: {3 * 8 * rows * columns / 1e9:.0f} GB" for name, (rows, columns) in sizes.items())
            + " for the matrix and two copies", True)


ROWS = {"lenet": against_lu, "resnet": of_resnet, "large": of_large, "tracing": through_tracing, "svd": by_singular_values}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        return measure(options.measure[0], int(options.measure[1]))
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for name in options.only:
        row = dict(zip(("work", "to reach", "measured", "reached"), ROWS[name]()), machine=machine())
        print(name, row, flush=True)
        found[name] = row
        RESULTS.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    lines = ["# Speed of the exact rank: networks of other makes", "",
             f"Written by `python benchmarks/other_networks.py` on {'; '.join(sorted({row['machine'] for row in found.values()}))}.",
             "", "| work | to reach | measured | reached |", "|---|---|---|---|"]
    for row in (found[name] for name in ROWS if name in found):
        lines.append(f"| {row['work']} | {row['to reach']} | {row['measured']} | {'yes' if row['reached'] else 'NO'} |")
    (HERE / "other_networks.md").write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()

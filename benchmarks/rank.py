"""How fast the exact rank is, side by side with its peers; writes benchmarks/README.md and benchmarks/scaling.png.

    python benchmarks/rank.py                  everything, about half an hour on 2 cores
    python benchmarks/rank.py --only lu flint  some rows; the others stay as results.json has them

Every ratio comes from one process, the contestants taking turns; times are medians. Peak memory is that of a process of
its own. Nothing else should run on the machine meanwhile.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import flint
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
import torch

import fdimlib as fd
from fdimlib.companion import figures
from fdimlib.oracle import modular_jacobian

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"
EPOCHS = 680  # the authors' last checkpoint


def case(width, n, epochs=0):
    """The authors' network and n real digits, at init or trained."""
    digits = fd.mnist_sample(n, 1)
    net = fd.relu_mlp([784, width, width, width, 10], seed=0)
    if epochs:
        net = fd.train(net, digits.x_train, digits.y_train, epochs=epochs, progress=False)[-1].model
    return net, digits.x_train


def exact(net, x):
    return fd.batch_functional_dimension(net, x, head="softmax", progress=False)


def svd(net, x):
    return fd.batch_functional_dimension(net, x, head="softmax", method="svd")


def gram_eigenvalues(net, x):
    """The rank read off the eigenvalues of J Jᵀ, whose rounding is that of J squared."""
    j = fd.jacobian(net, x, head="softmax")
    s = torch.linalg.eigvalsh(j @ j.T).clamp_min(0).flip(0)
    return fd.numerical_rank(s, j.shape)


def take_turns(repeats, **contestants):
    """Median seconds of each, and its last result; one run of the first before, to warm up."""
    next(iter(contestants.values()))()
    seconds, results = {name: [] for name in contestants}, {}
    for _ in range(repeats):
        for name, call in contestants.items():
            start = time.perf_counter()
            results[name] = call()
            seconds[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in seconds.items()}, results


def in_own_process(method, width, n, epochs=0):
    """{seconds, rank, peak}: peak bytes of a fresh process beyond what it held with the case in hand."""
    call = [sys.executable, __file__, "--measure", method, str(width), str(n), str(epochs)]
    return json.loads(subprocess.run(call, check=True, capture_output=True, text=True).stdout)


def measure(method, width, n, epochs):
    net, x = case(width, n, epochs)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far, that of the training, is forgotten
    start = time.perf_counter()
    if method == "full":
        rank = int(fd.full_functional_dimension(net, head="softmax", progress=False))
    else:
        rank = int({"exact": exact, "svd": svd, "gram": gram_eigenvalues}[method](net, x))
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "rank": rank, "peak": resident("VmHWM") - before, "total": resident("VmHWM")}))


def resident(name):
    """Bytes of this process in memory: now (VmRSS) or at most (VmHWM)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def against_lu():
    net, x = case(30, 600, EPOCHS)
    matrix = torch.randn(6000, 6000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    seconds, results = take_turns(5, exact=lambda: exact(net, x), lu=lambda: torch.linalg.lu_factor(matrix))
    ratio = seconds["exact"] / seconds["lu"]
    return ("w = 30, n = 600, trained: against `torch.linalg.lu_factor` of a 6000 × 6000 matrix", "at most 1×",
            f"{ratio:.2f}× ({seconds['exact']:.2f} s against {seconds['lu']:.2f} s; rank {int(results['exact']):,})",
            ratio <= 1)


def against_matmul():
    net, x = case(30, 2000, EPOCHS)
    a = torch.randn(4096, 4096, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    seconds, results = take_turns(2, matmul=lambda: a @ a, exact=lambda: exact(net, x))
    rank = int(results["exact"])
    ratio = seconds["exact"] / (seconds["matmul"] * rank**3 / 3 / (2 * 4096**3))
    peak = in_own_process("exact", 30, 2000, EPOCHS)["total"]
    return ("w = 30, n = 2,000, trained: against r³/3 operations of float64 matmul; peak memory of the process",
            "at most 2×, under 4 GB", f"{ratio:.2f}× ({seconds['exact']:.1f} s; rank {rank:,}), {peak / 1e9:.2f} GB",
            ratio <= 2 and peak < 4e9)


def growth_with_rows():
    cases = {n: case(5, n, EPOCHS) for n in (1000, 2000, 4000)}
    seconds, results = take_turns(5, **{str(n): (lambda c=c: exact(*c)) for n, c in cases.items()})
    unit = {n: seconds[str(n)] / (9 * n * int(results[str(n)]) ** 2) for n in cases}
    growth = [unit[n] / unit[1000] for n in (2000, 4000)]
    peaks = [in_own_process("exact", 5, n, EPOCHS)["peak"] for n in cases]
    sizes = [4 * int(results[str(n)]) ** 2 + 8 * x.numel() for n, (_, x) in cases.items()]  # L in float32, the sample modulo p
    rest = [(peak - size) / 1e6 for peak, size in zip(peaks, sizes)]
    ranks = " → ".join(f"{int(results[str(n)]):,}" for n in cases)
    return ("w = 5, n = 1,000 → 2,000 → 4,000, trained: growth of time over rows·r²; peak memory beyond the sample and r²",
            "at most 1.15×, flat",
            f"{growth[0]:.2f}×, {growth[1]:.2f}× (ranks {ranks}); {' → '.join(f'{p:.0f}' for p in rest)} MB",
            max(growth) <= 1.15 and rest[-1] <= 1.15 * rest[0])


def full_dimension():
    found = in_own_process("full", 30, 1)
    bound = fd.dimension_bound(fd.relu_mlp([784, 30, 30, 30, 10]), head="softmax")
    return ("w = 30: r*(θ) on Gaussian inputs", "in 24 GB, stops at the bound",
            f"{found['rank']:,} of at most {bound:,}, {found['seconds']:.0f} s, {found['total'] / 1e9:.1f} GB",
            found["rank"] == bound and found["total"] < 24e9)


def against_svd(width, target):
    net, x = case(width, 600, EPOCHS)
    quick, results = take_turns(5, exact=lambda: exact(net, x))
    seconds = []
    for route in (torch.linalg.svdvals, lambda j: torch.linalg.svdvals(j.T)):  # as theirs; and tall, which is faster
        start = time.perf_counter()
        s = route(fd.jacobian(net, x, head="softmax"))
        seconds.append(time.perf_counter() - start)
    slow, transposed = seconds
    numerical = fd.numerical_rank(s, (len(x) * 10, sum(p.numel() for p in net.parameters())))
    ratio = slow / quick["exact"]
    return (f"w = {width}, n = 600, trained: against the authors' route, float64 Jacobian and `torch.linalg.svdvals`",
            f"at least {target}× faster", f"{ratio:.0f}× ({slow:.0f} s once, rank read {numerical:,}, against "
            f"{quick['exact']:.2f} s, rank {int(results['exact']):,}); "
            f"{transposed / quick['exact']:.0f}× against the transposed matrix", ratio >= target)


def against_flint():
    net, x = case(10, 600, EPOCHS)
    prime = exact(net, x).primes[0]
    matrix = flint.nmod_mat(modular_jacobian(net, x, prime, head="softmax").tolist(), prime)
    seconds, results = take_turns(3, exact=lambda: exact(net, x), flint=matrix.rank)
    ratio = seconds["flint"] / seconds["exact"]
    return ("w = 10, n = 600, trained: against FLINT's `nmod_mat.rank` of the explicit matrix, modulo the same prime",
            "at least 10× faster", f"{ratio:.0f}× ({seconds['flint']:.1f} s against {seconds['exact']:.2f} s; ranks "
            f"{results['flint']:,} and {int(results['exact']):,})", ratio >= 10)


ROWS = {"lu": against_lu, "matmul": against_matmul, "rows": growth_with_rows, "full": full_dimension,
        "svd10": lambda: against_svd(10, 30), "svd30": lambda: against_svd(30, 80), "flint": against_flint}


def scaling(limit):
    """Seconds, peak memory and the rank read, against n (w = 10) and against w (n = 200); each route until `limit` seconds."""
    points = []
    sweeps = {"n": [(10, n) for n in (50, 100, 200, 400, 800, 1600)], "w": [(w, 200) for w in (3, 5, 10, 20, 40)]}
    for axis, settings in sweeps.items():
        for method in ("exact", "svd", "gram"):
            for width, n in settings:
                found = in_own_process(method, width, n)
                points.append({"axis": axis, "method": method, "w": width, "n": n, **found})
                print(points[-1], flush=True)
                if found["seconds"] > limit:
                    break
    return pd.DataFrame(points)


def draw(points):
    figures.use_style()
    names = {"exact": "exact", "svd": "SVD of J", "gram": "eigenvalues of JJᵀ"}
    exact_rank = points[points.method == "exact"].groupby(["w", "n"])["rank"].first()  # one point is on both axes
    points = points.assign(route=points.method.map(names), memory=points.peak.clip(lower=1e6) / 1e6,
                           error=points["rank"] - [exact_rank[w, n] for w, n in zip(points.w, points.n)])
    fig, axes = plt.subplots(2, 3, figsize=(9, 5.2))
    titles = {"seconds": "seconds", "memory": "peak memory (MB)", "error": "rank read − exact rank"}
    for line, axis, label in zip(axes, ("n", "w"), ("sample size n (w = 10)", "width w (n = 200)")):
        for ax, (y, title) in zip(line, titles.items()):
            data = points[points.axis == axis]
            sns.lineplot(data, x=axis, y=y, hue="route", style="route", markers=True, ax=ax, lw=2)
            ax.set(xscale="log", xlabel=label, ylabel=title, yscale="linear" if y == "error" else "log")
            ax.set_xticks(data[axis].unique(), data[axis].unique())
            ax.minorticks_off()
            ax.legend().remove()
        line[-1].set_ylim(top=5, bottom=min(-5, 1.1 * data.error.min()))
    fig.legend(*axes[0, 0].get_legend_handles_labels(), ncols=3, loc="outside upper center")
    fig.savefig(HERE / "scaling.png", metadata={"Software": None})


def machine():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return f"{name}, {torch.get_num_threads()} cores, torch {torch.__version__}, Python {platform.python_version()}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*ROWS, "scaling"], default=[*ROWS, "scaling"])
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        method, *numbers = options.measure
        return measure(method, *map(int, numbers))
    for name in (name for name in ROWS if name in options.only):
        keep(name, dict(zip(("work", "to reach", "measured", "reached"), ROWS[name]()), machine=machine()))
    if "scaling" in options.only:
        keep("scaling", {"machine": machine(), "points": scaling(limit=60).to_dict("records")})
        draw(pd.DataFrame(results()["scaling"]["points"]))
    (HERE / "README.md").write_text(page(results()), encoding="utf-8")


def results():
    """What has been measured: the rows of the table by name."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def keep(name, row):
    print(name, row, flush=True)
    RESULTS.write_text(json.dumps(results() | {name: row}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def page(found):
    """benchmarks/README.md."""
    machines = sorted({row["machine"] for row in found.values()})
    lines = ["# Speed of the exact rank", "", f"Written by `python benchmarks/rank.py` on {'; '.join(machines)}; results.json "
             "names the one of each row. The authors' network 784-w-w-w-10, softmax, real digits; medians of runs that take "
             "turns in one process.", "",
             "| work | to reach | measured | reached |", "|---|---|---|---|"]
    for row in (found[name] for name in ROWS if name in found):
        lines.append(f"| {row['work']} | {row['to reach']} | {row['measured']} | {'yes' if row['reached'] else 'NO'} |")
    lines += ["| one H100 or H200, w = 30, n = 2,000 | under 3 s after warm-up | not measured: no GPU at hand | – |", ""]
    missing = [name for name in [*ROWS, "scaling"] if name not in found]
    if missing:
        lines += [f"Not measured yet: {', '.join(missing)}.", ""]
    if "scaling" in found:
        lines += [
            "![Seconds, memory and error of three routes to the rank, against sample size and width.](scaling.png)", "",
            "Three routes to one number, each in a process of its own, at initial weights, stopped after the first run of more "
            "than a minute. Right: how far the count is from the exact rank. The eigenvalues of J Jᵀ are the squares of the "
            "singular values: those below about 1e-8 of the largest drown in rounding.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()

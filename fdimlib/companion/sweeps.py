"""Running an experiment: every missing point is computed and recorded; what fails is recorded and does not stop the rest.

Points of one training run are computed together, because the network is trained once for all of them, in float64 on the CPU
whatever the device of the ranks. Several sweeps may share one folder, on one machine or on a cluster's: a run that
another process has claimed is left to it.
"""

import hashlib
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from fdimlib.companion import REPOSITORY
from fdimlib.companion.data import add_noise, mnist_sample, randomize_labels
from fdimlib.companion.experiments import PRESETS, Point, Run, experiments
from fdimlib.companion.records import Records, table
from fdimlib.companion.training import evaluate, train
from fdimlib.dimension import batch_functional_dimension, full_functional_dimension, gaussian_inputs
from fdimlib.numerical import numerical_rank, spectrum
from fdimlib.patterns import activation_pattern
from fdimlib.symmetries import dimension_bound, relu_mlp

FOLDER = REPOSITORY / "build" / "records"
SHORT = 2e12  # operations; half a minute on two cores


def published(name: str, preset: str) -> Path:
    """The committed table of an experiment."""
    return REPOSITORY / "figures" / "data" / f"{name}_{preset}.csv"


def all_records(folder: Path = FOLDER) -> Records:
    """What has been computed here, and what was published."""
    return Records(folder, [published(name, preset) for preset in PRESETS for name in experiments(preset)])


def compute(points: list[Point], device: str = "cpu") -> Iterator[tuple[Point, dict]]:
    """The outcome at each of some points of one training run: {"result": …} or {"error": …}."""
    run = points[0].run
    needed = max([point.samples for point in points if point.inputs == "test"], default=1)
    try:
        digits = mnist_sample(run.n_train, needed, seed=run.seed, pool=run.digits)
        x = add_noise(digits.x_train, run.noise, seed=run.seed)
        y = randomize_labels(digits.y_train, run.random_labels, seed=run.seed)
        epochs = sorted({point.epoch for point in points})
        kept = train(relu_mlp(run.layers, seed=run.seed), x, y, checkpoints=epochs, epochs=max(1, epochs[-1]),
                     seed=run.seed, progress=False)
    except Exception as problem:
        yield from ((point, {"error": f"training: {type(problem).__name__}: {problem}"}) for point in points)
        return
    models = {checkpoint.epoch: checkpoint.model for checkpoint in kept}
    samples = {"train": (x, y), "clean": (digits.x_train, y), "test": (digits.x_test, digits.y_test)}
    for point in points:
        try:
            if point.inputs in samples:
                inputs, labels = (values[: point.samples] for values in samples[point.inputs])
            else:
                inputs, labels = gaussian_inputs(point.samples, seed=run.seed), None
            measure = _numerical if point.method == "svd" else _exact
            yield point, {"result": measure(point, models[point.epoch], inputs, labels, device)}
        except Exception as problem:
            yield point, {"error": f"{type(problem).__name__}: {problem}"}


def _exact(point: Point, model: nn.Sequential, x, y, device: str) -> dict:
    """The exact rank with the softmax head, its bounds, and how well the network does on these inputs."""
    start = time.perf_counter()
    if point.inputs == "growing":
        dim = full_functional_dimension(model, head="softmax", seed=point.run.seed, device=device,
                                        max_samples=point.samples, progress=False)
        x = x[: dim.samples]
    else:
        dim = batch_functional_dimension(model, x, head="softmax", device=device, progress=False)
    seconds = time.perf_counter() - start
    loss, accuracy = (None, None) if y is None else evaluate(model, x, y)
    active = activation_pattern(model, x).reshape(len(x), 3, point.run.width)
    return {
        "exact": dim.value, "bound": dim.bound, "sample_bound": 9 * dim.samples,
        "parameter_bound": dimension_bound(model, head="softmax"), "parameters": dim.parameters, "verified": dim.verified,
        "zeros": dim.zero_preactivations, "dead": not active.any(dim=2).any(dim=0).all().item(),
        "patterns": len(torch.unique(active.flatten(1), dim=0)), "inputs_used": dim.samples,
        "reached_at": dim.reached_at,
        "loss": loss, "accuracy": accuracy, "seconds": round(seconds, 3), "weights": fingerprint(model),
        "torch": torch.__version__.split("+")[0], "prime": dim.primes[-1],
    }


def _numerical(point: Point, model: nn.Sequential, x, y, device: str) -> dict:
    """The paper's count: entries in float32 or float64, with softmax or logits, the tolerance always that of float64."""
    start = time.perf_counter()
    counts = {"exact_logits": int(batch_functional_dimension(model, x, head="identity", device=device, progress=False))}
    for precision in (torch.float32, torch.float64):
        rounded = relu_mlp(point.run.layers).to(device, precision)
        rounded.load_state_dict(model.state_dict())
        for head in ("softmax", "identity"):
            s = spectrum(rounded, x, head=head)
            shape = (len(x) * point.run.layers[-1], sum(p.numel() for p in rounded.parameters()))
            name = f"svd_{str(precision).removeprefix('torch.')}_{'softmax' if head == 'softmax' else 'logits'}"
            counts[name] = numerical_rank(s, shape)
    return counts | {"svd_seconds": round(time.perf_counter() - start, 3), "weights": fingerprint(model)}


def fingerprint(model: nn.Sequential) -> str:
    """A hash of the weights, bit by bit: two networks with the same one have the same rank."""
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().to("cpu", torch.float64).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def sweep(points: list[Point], records: Records, *, device: str = "cpu", progress: bool = True) -> list[Point]:
    """Compute and record every point that is missing; return those that failed or that another process has in hand.

    Raises:
        OSError: a record cannot be written; the message holds the result that would be lost. All others are safe.
    """
    unfinished = []
    missing = [point for point in points if records.get(point) is None]
    bar = tqdm(total=sum(point.cost for point in missing), disable=not progress, smoothing=0,
               bar_format="{percentage:3.0f}%|{bar:24}| {elapsed} so far, about {remaining} to go; {postfix}")
    with bar:
        for run, group in _by_run(missing):
            with records.claim(run) as mine:
                todo = [point for point in group if records.get(point) is None] if mine else []
                unfinished += [] if mine else group
                done = 0.0
                for point, outcome in compute(todo, device) if todo else ():
                    _write(records, point, outcome)
                    unfinished += [point] if "error" in outcome else []
                    done += point.cost
                    bar.set_postfix_str(describe(point, outcome), refresh=False)
                    bar.update(point.cost)
            bar.update(sum(point.cost for point in group) - done)
    return unfinished


def _by_run(points: list[Point]) -> Iterator[tuple[Run, list[Point]]]:
    """Points of one run together, so that it is trained once; those that take long come last, the longest at the end."""
    place = {run: number for number, run in enumerate(dict.fromkeys(point.run for point in points))}
    order = sorted(points, key=lambda point: (max(point.cost, SHORT), place[point.run]))
    return ((run, list(group)) for run, group in groupby(order, key=lambda point: point.run))


def _write(records: Records, point: Point, outcome: dict) -> None:
    try:
        records.put(point, **outcome)
    except OSError as problem:
        raise OSError(f"record {point.key} cannot be written to {records.folder} ({problem}); make room and start again: all "
                      f"finished points before it are safe. This one: {outcome}") from problem


def ranks(result: dict) -> dict:
    """The integers of a result that the weights decide."""
    return {name: value for name, value in result.items() if name.startswith(("exact", "svd")) and name != "svd_seconds"}


def describe(point: Point, outcome: dict) -> str:
    """A point and its outcome in a line."""
    run = point.run
    extras = [f"noise {run.noise:g}"] * bool(run.noise) + [f"random labels {run.random_labels:.0%}"] * bool(run.random_labels)
    setting = ", ".join([f"w = {run.width}", f"seed {run.seed}", f"epoch {point.epoch}", f"{point.inputs} inputs", *extras])
    result = outcome.get("result", {})
    found = outcome.get("error") or (f"rank {result['exact']:,} of at most {result['bound']:,}" if "exact" in result else
                                     f"float32 count {result['svd_float32_softmax']:,.0f}")
    return f"{setting}: {found}"


def results(name: str, preset: str, *, device: str = "cpu") -> pd.DataFrame:
    """An experiment's table: at the quick preset computed anew, at others what the records hold (`sweep` adds to them).

    Raises:
        LookupError: the records hold nothing of it.
    """
    points = experiments(preset)[name]
    if preset != "quick":
        found = table(all_records(), points)
        if found.empty:
            raise LookupError(f"preset: no records of {name} at {preset!r}; python -m fdimlib sweep {name} --preset {preset}")
        return found
    memory = Records(Path("-"))
    memory.published = {point: outcome["result"] for _, group in _by_run(points) for point, outcome in compute(group, device)}
    return table(memory, points)


def sound(*tables: pd.DataFrame) -> bool:
    """Whether every rank of these tables is verified and within its bound."""
    return all((found.verified & (found.exact <= found.bound)).all() for found in tables)


def account(found: pd.DataFrame, name: str, preset: str) -> str:
    """How complete and how sound the table of an experiment is, in two or three lines."""
    wanted = sum(point.method == "exact" for point in experiments(preset)[name])
    seeds = ", ".join(f"{n} at w = {width}" for width, n in found.groupby("width").seed.nunique().items())
    rest = f"\nthe other {wanted - len(found)}: python -m fdimlib sweep {name} --preset {preset}" if len(found) < wanted else ""
    return (f"{len(found)} of {wanted} points; every rank verified and within its bound: {'yes' if sound(found) else 'NO'}\n"
            f"seeds: {seeds}{rest}")


def publish(name: str, preset: str, records: Records) -> Path | None:
    """Write the finished points of an experiment to its table; None when there is none."""
    finished = table(records, experiments(preset)[name])
    if finished.empty:
        return None
    path = published(name, preset)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    finished.to_csv(temporary, index=False, lineterminator="\n")
    temporary.replace(path)
    return path


def submit(points: list[Point], records: Records, cluster: str, device: str, options: dict) -> None:
    """Hand the missing points to submitit, one job a training run, and wait; the jobs write the same records.

    Interrupting the wait does not stop the jobs. What a job that dies leaves undone is recorded as failed.
    """
    import submitit  # needed for clusters only, and slow to import

    executor = submitit.AutoExecutor(folder=records.folder / "submitit", cluster=cluster)
    executor.update_parameters(name="fdimlib", **options)
    groups = [group for _, group in _by_run([point for point in points if records.get(point) is None])]
    jobs = [executor.submit(_job, group, records.folder, device) for group in groups]
    for group, job in zip(groups, tqdm(jobs, desc=f"jobs, logs in {executor.folder}", unit="job")):
        try:
            job.result()
        except Exception as problem:  # whatever ended the job: its own error, the scheduler, a lack of memory
            for point in (point for point in group if records.get(point) is None):
                records.put(point, error=f"job {job.job_id}: {problem}")


def _job(points: list[Point], folder: Path, device: str) -> None:
    sweep(points, all_records(folder), device=device, progress=False)

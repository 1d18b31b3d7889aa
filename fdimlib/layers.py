"""Whether modules compute what their types say: a rank of another function would be no rank.

Three nets, one behind the other. What is known to change a module is refused by name, with the call
that undoes it: hooks, also global ones, parametrizations, pruning, a method replaced in one object.
The parameters must be tensors of numbers, in memory cells that no two of them share. And whatever
else there may be, a patched class or function, say, shows in the last: the network's own output,
in float64, must be that of its layers, up to rounding.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules import module as torch_modules
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from fdimlib.arrays import finite
from fdimlib.validation import has_float64, plain_type, type_name

PROBES = 8  # random inputs, of two sizes each, on which the output is compared
SAMPLES = 64  # of the sample: its first so many

WRAPPERS = {
    "DataParallel": "model.module", "DistributedDataParallel": "model.module",
    "FullyShardedDataParallel": "the network before it was wrapped",
    "AveragedModel": "model.module", "OptimizedModule": "model._orig_mod",
    "GraphModule": "the Sequential that was traced",
    "ScriptModule": "the Sequential that was scripted or traced",
}
"""Classes that hold a network, and what to pass instead."""


class NotPlain(Exception):
    """A module that is no plain Sequential of layers that compute what their types say.

    What it computes may be readable all the same (`tracing`).
    """


class NotPlainType(NotPlain, TypeError):
    """By the type of one of its parts."""


class NotPlainValue(NotPlain, ValueError):
    """By how its parts fit together."""


class NotReadable(TypeError):
    """A module that computes what the exact rank cannot be had of."""


def layer_name(layer: object) -> str:
    """`Linear` for torch.nn.Linear; any other class with its module, which may have its name."""
    kind = type(layer)
    return kind.__name__ if getattr(nn, kind.__name__, None) is kind else type_name(layer)


def refuse_other_modules(model: object) -> None:
    """Raise TypeError when `model` is no Sequential, or one with another forward."""
    if isinstance(model, nn.Sequential) and type(model).forward is nn.Sequential.forward:
        return
    refuse_wrappers(model)
    kind = NotPlainType if isinstance(model, nn.Module) else TypeError
    raise kind(
        f"model: found {layer_name(model)}, not a torch.nn.Sequential; "
        "write it as nn.Sequential(nn.Linear(...), nn.ReLU(), ..., nn.Linear(...))"
    )


def refuse_wrappers(model: object) -> None:
    """Raise TypeError when `model` holds a network, with what to pass instead."""
    for kind in type(model).__mro__:
        if kind.__name__ in WRAPPERS and kind.__module__.startswith("torch."):
            raise TypeError(f"model: found {kind.__module__}.{kind.__name__}, which wraps a "
                            f"network; pass {WRAPPERS[kind.__name__]}")


def refuse_changed_modules(model: nn.Sequential) -> None:
    """Raise TypeError for what changes the output of a module and leaves its type."""
    registries = (torch_modules._global_forward_hooks, torch_modules._global_forward_pre_hooks)
    if any(registries):
        raise NotPlainType("model: a forward hook is registered for all modules (torch.nn.modules."
                        "module.register_module_forward_hook), which may change its output; "
                        "remove the hook first")
    refuse_reparameterised(model)
    for name, module in model.named_modules():
        where = f"{layer_name(module)} {name or 'itself'}"
        if module._forward_hooks or module._forward_pre_hooks:
            raise NotPlainType(f"model: {where} has a forward hook, which may change its output; "
                            "remove the hook first")
        replaced = [key for key in vars(module) if callable(getattr(type(module), key, None))]
        if replaced:
            raise NotPlainType(f"model: {where} has its own {', '.join(replaced)}, which may "
                               "change its output; use a plain layer, with no method replaced")


def refuse_reparameterised(model: nn.Module) -> None:
    """Raise TypeError with the call that makes all parameters ordinary ones."""
    for name, module in model.named_modules():
        _refuse_reparameterised(f"model[{name}]" if name else "model", module)


def _refuse_reparameterised(place: str, module: nn.Module) -> None:
    """Raise TypeError with the call that makes its weight an ordinary parameter."""
    call = ""
    if isinstance(module, nn.modules.lazy.LazyModuleMixin) and module.has_uninitialized_params():
        raise TypeError(f"model: {place} is a {layer_name(module)} without values yet; call the "
                        "model once on a sample, model(x), which initialises it")
    if parametrize.is_parametrized(module):
        key = next(iter(module.parametrizations))  # type: ignore[arg-type]
        call = f"torch.nn.utils.parametrize.remove_parametrizations({place}, {key!r})"
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            call = f"torch.nn.utils.remove_weight_norm({place}, {hook.name!r})"
        if isinstance(hook, SpectralNorm):
            call = f"torch.nn.utils.remove_spectral_norm({place}, {hook.name!r})"
        if isinstance(hook, prune.BasePruningMethod):
            key = hook._tensor_name
            call = f"torch.nn.utils.prune.remove({place}, {key!r})"
    if call:
        pruned = "; pruned entries then count as parameters that are 0" if "prune" in call else ""
        raise TypeError(f"model: the parameters of {place} are made from others at every call "
                        f"(normalised, parametrized or pruned); call {call} first{pruned}")


def check_parameters(position: int, layer: nn.Module) -> None:
    """Raise unless the layer has the parameters of its type, of ordinary finite numbers."""
    where = f"{layer_name(layer)} at position {position}"
    own = {"weight", "bias"} if isinstance(layer, nn.Linear) else set()
    parameters = dict(layer.named_parameters())
    extra = set(parameters) - own
    if extra:
        raise TypeError(f"model: {where} has parameters {', '.join(sorted(extra))}, which its type "
                        "does not use; remove them, so that they are not counted")
    for key in sorted(own):
        if getattr(layer, key, None) is not None and key not in parameters:
            raise TypeError(f"model: {key} of {where} is not a parameter; make it an nn.Parameter")
    if isinstance(layer, nn.Linear) and "weight" not in parameters:
        raise TypeError(f"model: {where} has no weight; make it an nn.Parameter")
    for key, value in parameters.items():
        what = f"model: {key} of {where}"
        if value.device.type == "meta":
            raise TypeError(f"{what} is on the meta device, which has shapes and no values; "
                            "make it real (model.to_empty(device='cpu')) and load its values")
        if not plain_type(value):
            raise TypeError(f"{what} is a {type_name(value)} of dtype {value.dtype}, layout "
                            f"{value.layout}; use an ordinary dense nn.Parameter")
        if not value.is_floating_point():
            raise TypeError(f"{what} has dtype {value.dtype}; use a float dtype")
        finite(value, what)
    if isinstance(layer, nn.Linear):
        _check_shapes(where, layer)


def _check_shapes(where: str, layer: nn.Linear) -> None:
    """As they are, whatever `in_features` and `out_features` say: slicing may have changed them."""
    weight, bias = layer.weight, layer.bias
    if weight.dim() != 2 or not weight.numel():
        raise ValueError(f"model: weight of {where} has shape {tuple(weight.shape)}; "
                         "it must be (outputs, inputs), at least one of either")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"model: bias of {where} has shape {tuple(bias.shape)}; "
                         f"it must be ({len(weight)},), one number an output")


def refuse_shared_cells(parameters: Sequence[Tensor]) -> None:
    """Raise ValueError where one memory cell is two entries: moving one would move both.

    Only tensors whose stretches of memory overlap are looked at cell by cell: the columns of one
    buffer, for instance, interleave and share nothing.
    """
    for p in parameters:
        if not p.is_contiguous() and _overlap(_cells(p)):
            raise ValueError(f"model: entries of a parameter of shape {tuple(p.shape)} share "
                             f"memory (strides {p.stride()}); the rank counts them as independent, "
                             "so copy it: nn.Parameter(p.detach().clone().contiguous())")
    spans = sorted(((_span(p), p) for p in parameters), key=lambda pair: pair[0])
    group: list[Tensor] = []
    reached = -1
    for (begin, end), p in spans:
        group = [*group, p] if begin < reached else [p]
        reached = max(reached, end) if len(group) > 1 else end
        if len(group) > 1 and _overlap(np.concatenate([_cells(member) for member in group])):
            raise NotPlainValue("model: two layers share a parameter, or parts of one; the rank "
                                "counts parameters as independent, so copy the shared layer "
                                "(copy.deepcopy)")


def _span(p: Tensor) -> tuple[int, int]:
    """The bytes from the first cell to behind the last."""
    last = sum((size - 1) * stride for size, stride in zip(p.shape, p.stride()))
    return p.data_ptr(), p.data_ptr() + (last + 1) * p.element_size()


def _cells(p: Tensor) -> np.ndarray:
    """(begin, end) in bytes of each entry, (numel, 2)."""
    places = np.zeros(1, np.int64)
    for size, stride in zip(p.shape, p.stride()):
        places = (places[:, None] + stride * np.arange(size)).reshape(-1)
    begin = p.data_ptr() + places * p.element_size()
    return np.stack([begin, begin + p.element_size()], axis=1)


def _overlap(cells: np.ndarray) -> bool:
    """Whether two of the intervals share a byte."""
    cells = cells[cells[:, 0].argsort(kind="stable")]
    ends = np.maximum.accumulate(cells[:, 1])
    return bool((cells[1:, 0] < ends[:-1]).any())


def probes(width: int) -> Tensor:
    """Random inputs to compare outputs on, near 0 and far from it: (2 · PROBES, N_0) float64."""
    x = np.random.default_rng(0).standard_normal((2 * PROBES, width))
    x[PROBES:] *= 100
    return torch.from_numpy(x)


@torch.no_grad()
def refuse_other_function(model: nn.Sequential, linears: Sequence[nn.Linear], x: Tensor) -> None:
    """Raise TypeError unless `model` computes Linear, ReLU, …, Linear (and Softmax) at x.

    Both sides in float64, where their difference is below 2.02 K u M: u = 2^-53, K the sum of the
    lengths of all inner products, M the output that absolute values of all numbers would give
    (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).

    Args:
        x: inputs, (n, N_0) float64.
    """
    home = linears[0].weight.device
    device = home if has_float64(home) else torch.device("cpu")
    h = x.to(device)
    size = h.abs()
    for depth, linear in enumerate(linears):
        weight = linear.weight.detach().cpu().double().to(device)
        bias = 0 if linear.bias is None else linear.bias.detach().cpu().double().to(device)
        h = (h.clamp_min(0) if depth else h) @ weight.T + bias
        size = size @ weight.T.abs() + abs(bias) + 2.0**-960  # far above what underflow can lose
    terms = sum(linear.weight.shape[1] + 4 for linear in linears)
    allowed = 2.02 * terms * 2.0**-53 * size
    if type(model[-1]) is nn.Softmax:
        h = h.softmax(dim=1)
        allowed = allowed.amax(dim=1, keepdim=True) + 16 * h.shape[1] * 2.0**-53
    numbers = {name: p.detach().cpu().double().to(device) for name, p in model.named_parameters()}
    try:
        with _uncompiled(model):
            own = functional_call(model, numbers, (x.to(device),))
    except Exception as problem:
        raise NotPlainType(
            f"model: cannot be called on inputs of shape {tuple(x.shape)} in float64 "
            f"({type(problem).__name__}: {problem}); does something replace what one of its layers "
            "computes? use plain layers") from problem
    # What overflows on our side says nothing.
    same = ((own - h).abs() <= allowed) | ~torch.isfinite(allowed) if own.shape == h.shape else None
    if same is None or not same.all():
        raise NotPlainType("model: its output is not what its layers give, on inputs tried; "
                           "something replaces what a layer computes (a patched class, say, or "
                           "function of torch); use plain layers, nothing replaced")


def _uncompiled(model: nn.Module) -> AbstractContextManager[object]:
    """Where what `model.compile()` compiles runs as it is: compiling takes long."""
    compiled = any(module._compiled_call_impl for module in model.modules())
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()

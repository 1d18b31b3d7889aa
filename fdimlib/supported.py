"""What can be read of torch, by the names of `torch.export`, and how the rest is refused."""

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from fdimlib.layouts import Value

MOVES = frozenset("""
    alias channel_shuffle chunk clone contiguous detach detach_copy
    diagonal expand expand_as flatten flip index index_select lift_fresh lift_fresh_copy movedim
    narrow permute pixel_shuffle pixel_unshuffle repeat repeat_interleave reshape reshape_as
    roll select slice split split_with_sizes squeeze swapaxes swapdims t tile transpose unbind
    unflatten unfold unsafe_chunk unsafe_split unsqueeze upsample_nearest1d upsample_nearest2d
    view view_as numpy_T mT
""".split())
"""Operators that copy entries, or look at them differently."""

COPIES = frozenset("""
    clone flip index index_select pixel_shuffle pixel_unshuffle repeat repeat_interleave roll
    tile upsample_nearest1d upsample_nearest2d
""".split())
"""Those of them whose result never shares its storage."""

SMOOTH = frozenset("""
    gelu tanh sigmoid silu exp log softplus elu celu selu mish layer_norm group_norm instance_norm
    native_layer_norm native_group_norm scaled_dot_product_attention sqrt rsqrt erf sin cos
    logsigmoid norm linalg_vector_norm tanhshrink softsign reciprocal rms_norm var std
    _fused_rms_norm logsumexp local_response_norm _weight_norm weight_norm_interface
    _weight_norm_interface
""".split())


class Unsupported(TypeError):
    """Why an operator cannot be read."""


def refusal(node: fx.Node, why: str) -> str:
    """A message that names an operator and its place in the module."""
    name = node.target.__name__.split(".")[0] if callable(node.target) else str(node.target)
    stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    path = next((path for path in reversed(stack) if not path.startswith("_")), "")
    place = f" at {path}" if path else " in its forward"
    if name.strip("_") in SMOOTH or name in SMOOTH:
        why = ("not piecewise polynomial; its derivative's rank cannot be decided by algebra; "
               "method=\"svd\" counts singular values")
        return f"model: aten.{name}{place}: {why}"
    advice = "" if ";" in why else "; method=\"svd\" counts singular values of every module"
    return f"model: aten.{name}{place}: {why}{advice}"


@dataclass(frozen=True, eq=False)
class Softened(Value):
    """What comes out of a softmax: nothing may follow but moving.

    Attributes:
        members: (groups, members) places that are compared with each other.
    """

    members: Tensor

    def moved(self, places: Tensor, group: object = None) -> Value:
        return Softened(self.node, self.size, places.long(), self.batched, group or self.group,
                        self.members)

    def groups_of(self, outputs: Tensor) -> Tensor:
        """The groups among a sample's outputs, places of them."""
        position = {place: number for number, place in enumerate(outputs.tolist())}
        own = [group for group in self.members.tolist() if position.keys() & set(group)]
        listed = [[position.get(place, -1) for place in group] for group in own]
        found = torch.tensor(listed)
        if (found < 0).any() or found.numel() != len(outputs) or len(position) != len(outputs):
            raise ValueError("model: gives a part of what its softmax gives, or some of it twice; "
                             "give all of it, or the logits")
        return found

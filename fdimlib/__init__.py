"""Exact functional dimensions of ReLU networks: a companion to Bona-Pellissier, Malgouyres, Bachoc (2024)."""

from fdimlib.activation import activation_pattern
from fdimlib.data import Sample, add_noise, gaussian_inputs, mnist_sample, randomize_labels
from fdimlib.dimension import Dimension, batch_functional_dimension, full_functional_dimension
from fdimlib.experiments import get_preset
from fdimlib.jacobian import jacobian, numerical_rank, spectrum
from fdimlib.networks import dimension_bound, permute, relu_mlp, rescale
from fdimlib.training import Checkpoint, evaluate, train

__all__ = [
    "Checkpoint", "Dimension", "Sample", "activation_pattern", "add_noise", "batch_functional_dimension",
    "dimension_bound", "evaluate", "full_functional_dimension", "gaussian_inputs", "get_preset", "jacobian",
    "mnist_sample", "numerical_rank", "permute", "randomize_labels", "relu_mlp", "rescale", "spectrum", "train",
]

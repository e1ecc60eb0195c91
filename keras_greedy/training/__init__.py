"""Training of the compact model, and its BatchNorm statistics."""

from keras_greedy.training.batch_norm import reestimate_batch_norm
from keras_greedy.training.compiling import compile_alike
from keras_greedy.training.finetune import FineTune
from keras_greedy.training.rounding import round_kernels

__all__ = ["FineTune", "compile_alike", "reestimate_batch_norm", "round_kernels"]

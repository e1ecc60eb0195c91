"""Training of the compact model, and its BatchNorm statistics."""

from keras_greedy.training.batch_norm import reestimate_batch_norm
from keras_greedy.training.finetune import FineTune, compile_alike

__all__ = ["FineTune", "compile_alike", "reestimate_batch_norm"]

"""Models of Keras 3 as models of tf_keras, the legacy Keras 2, and back.

TensorFlow Model Optimization (TF-MOT) knows tf_keras only. `to_tf_keras` hands a pruned
model to its quantization-aware training, clustering or sparsity; a legacy model that is
to be pruned comes in by `from_tf_keras`. tf_keras is imported when one of the two is
called, TF-MOT never.
"""

from keras_greedy.interop.from_legacy import from_tf_keras
from keras_greedy.interop.to_legacy import to_tf_keras

__all__ = ["from_tf_keras", "to_tf_keras"]

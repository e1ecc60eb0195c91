"""One road of TF-MOT, in a process of its own: `tfmot.py` runs it.

    python benchmarks/tfmot_roads.py int8 model.h5 model.tflite

Reads a tf_keras model, trains it on digits as TF-MOT has it, writes a `.tflite` file
and prints what became of the kernels as JSON.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras

from keras_greedy.datasets import digits

BATCH = 64
CLUSTERS = 16
SPARSITY = 0.5


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("road", choices=ROADS)
    parser.add_argument("model", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tf_keras.utils.set_random_seed(options.seed)
    model = tf_keras.models.load_model(options.model, compile=False)
    trained, optimizations = ROADS[options.road](model, options.epochs)
    converter = tf.lite.TFLiteConverter.from_keras_model(trained)
    converter.optimizations = optimizations
    options.file.write_bytes(converter.convert())
    print(json.dumps(kernels(trained)))


def quantized(model, epochs):
    model = tfmot.quantization.keras.quantize_model(model)
    return fitted(model, epochs), [tf.lite.Optimize.DEFAULT]


def clustered(model, epochs):
    start = tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS
    model = tfmot.clustering.keras.cluster_weights(
        model, number_of_clusters=CLUSTERS, cluster_centroids_init=start
    )
    return tfmot.clustering.keras.strip_clustering(fitted(model, epochs)), []


def sparse(model, epochs):
    (x, _), _ = digits(16)
    steps = epochs * -(-len(x) // BATCH)
    schedule = tfmot.sparsity.keras.PolynomialDecay(
        0.0, SPARSITY, begin_step=0, end_step=steps // 2, frequency=max(steps // 16, 1)
    )
    model = tfmot.sparsity.keras.prune_low_magnitude(model, schedule)
    model = fitted(model, epochs, [tfmot.sparsity.keras.UpdatePruningStep()])
    return tfmot.sparsity.keras.strip_pruning(model), []


ROADS = {"int8": quantized, "clustered": clustered, "sparse": sparse}


def fitted(model, epochs, callbacks=()):
    (x, y), _ = digits(16)
    optimizer = tf_keras.optimizers.Adam(3e-4)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    options = {"batch_size": BATCH, "epochs": epochs, "verbose": 0}
    model.fit(x, y, callbacks=list(callbacks), **options)
    return model


def kernels(model) -> dict:
    """For each kernel, how many values it has and what share of them is 0."""
    found = [w.numpy() for w in model.trainable_weights if "kernel" in w.name]
    return {
        "values": [len(np.unique(kernel)) for kernel in found],
        "zeros": [float((kernel == 0).mean()) for kernel in found],
    }


if __name__ == "__main__":
    main()

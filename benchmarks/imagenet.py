"""The real network and images the benchmarks run on.

They lie in `../shared/data` or where `KERAS_GREEDY_DATA` says, and are not part of
this repository.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("KERAS_GREEDY_DATA", ROOT.parent / "shared" / "data"))


def load_model() -> keras.Model:
    """MobileNetV2 with its ImageNet weights."""
    if not DATA.is_dir():
        sys.exit(f"This benchmark needs the folder {DATA}, which is not there.")
    weights = DATA / "mobilenet_v2_imagenet" / "mobilenet_v2_1.0_224.weights.h5"
    return keras.applications.MobileNetV2(weights=weights)


def read_images(name, count=-1):
    """The first `count` images, 224 x 224 centre crop, as the network wants them."""
    spec = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }

    def parse(record):
        example = tf.io.parse_single_example(record, spec)
        image = tf.io.decode_jpeg(example["image"], channels=3)
        top = (tf.shape(image)[0] - 224) // 2
        return image[top : top + 224, top : top + 224], example["label"]

    records = tf.data.TFRecordDataset(str(DATA / name)).map(parse).take(count)
    images, labels = zip(*records.as_numpy_iterator(), strict=True)
    images = np.stack(images).astype("float32")
    return keras.applications.mobilenet_v2.preprocess_input(images), np.array(labels)

"""ResNet-56 and CIFAR-10, which lie where the images of `imagenet.py` do."""

import sys

import keras
import numpy as np
import tensorflow as tf
from imagenet import DATA

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load_model() -> keras.Model:
    """ResNet-56, trained on the original images; its outputs are logits."""
    if not DATA.is_dir():
        sys.exit(f"This benchmark needs the folder {DATA}, which is not there.")
    return keras.models.load_model(DATA / "cifar10_resnet56" / "resnet56_cifar10.keras")


def read_images(split, count=-1):
    """The first `count` images and labels of `"train"` or `"test"`."""
    spec = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }

    def parse(record):
        example = tf.io.parse_single_example(record, spec)
        return tf.io.decode_jpeg(example["image"], channels=3), example["label"]

    file = str(DATA / "cifar10" / f"{split}.tfrecord")
    records = tf.data.TFRecordDataset(file).map(parse).take(count)
    images, labels = zip(*records.as_numpy_iterator(), strict=True)
    images = (np.stack(images) / 255.0 - MEAN) / DEVIATION
    return images.astype("float32"), np.array(labels)

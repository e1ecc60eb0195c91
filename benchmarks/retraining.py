"""A pruned network against the same small architecture trained from new weights.

    python benchmarks/retraining.py digits
    python benchmarks/retraining.py cifar10

Both are trained for the same epochs on the same batches with the same schedule. On
digits the full network is trained here; on CIFAR-10 it is the pretrained ResNet-56,
which has seen far more epochs than any network here is given.
"""

import argparse

import cifar
import keras
import numpy as np

import keras_greedy
from keras_greedy.datasets import digits
from keras_greedy.report import markdown

SEEDS = 3


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", choices=["digits", "cifar10"])
    road = {"digits": on_digits, "cifar10": on_cifar10}
    rows = road[parser.parse_args().data]()
    header = ("MACs", "epochs", "as pruned", "pruned, then trained", "new weights")
    print("\n" + markdown([header, *rows]))


def on_digits():
    train, test = digits(16)
    full = convolutional_network(train[0].shape[1:])
    fit(full, train, epochs=20)
    print(f"full model: {top1(full, test):.1%}", flush=True)
    for budget in (0.5, 0.1):
        yield from compared(
            full, budget, train[0][:512], train, test, (1, 5, 20), SEEDS
        )


def on_cifar10():
    train, test = cifar.read_images("train", 10_000), cifar.read_images("test", 2000)
    full = cifar.load_model()
    print(f"full model: {top1(full, test):.1%}", flush=True)
    yield from compared(full, 0.5, train[0][:1024], train, test, (1,), seeds=1)


def compared(full, budget, calibration, train, test, epochs, seeds):
    """A row for each number of epochs: mean and spread over the seeds."""
    compact = keras_greedy.prune(full, calibration, budget, verbose=0)
    for count in epochs:
        pruned, new = [], []
        for seed in range(seeds):
            keras.utils.set_random_seed(seed)
            fresh = keras.models.clone_model(compact)
            kept = keras.models.clone_model(compact)
            kept.set_weights(compact.get_weights())
            for model, found in ((kept, pruned), (fresh, new)):
                keras.utils.set_random_seed(seed)
                fit(model, train, count)
                found.append(top1(model, test))
        as_pruned = f"{top1(compact, test):.1%}"
        row = f"{budget:.0%}", str(count), as_pruned, spread(pruned), spread(new)
        print(*row, flush=True)
        yield row


def convolutional_network(shape) -> keras.Model:
    """Four convolutions with BatchNorm, with new weights of seed 0."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    stack = [keras.Input(shape)]
    for filters, strides in ((32, 1), (64, 2), (64, 1), (128, 2)):
        stack += [
            layers.Conv2D(filters, 3, strides, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
        ]
    stack += [layers.GlobalAveragePooling2D(), layers.Dense(10, activation="softmax")]
    return keras.Sequential(stack)


def fit(model, train, epochs) -> None:
    images, labels = train
    steps = epochs * -(-len(images) // 64)
    rate = keras.optimizers.schedules.CosineDecay(1e-3, steps)
    from_logits = model.layers[-1].get_config().get("activation") != "softmax"
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
    model.compile(keras.optimizers.Adam(rate), loss)
    model.fit(images, labels, batch_size=64, epochs=epochs, verbose=0)
    # The moving statistics of BatchNorm are not at home yet after so few steps.
    keras_greedy.reestimate_batch_norm(model, images[:1024])


def top1(model, test) -> float:
    images, labels = test
    answers = model.predict(images, batch_size=128, verbose=0).argmax(axis=-1)
    return float((answers == labels).mean())


def spread(found) -> str:
    if len(found) == 1:
        return f"{found[0]:.1%}"
    return f"{np.mean(found):.1%} ± {np.std(found, ddof=1):.1%}"


if __name__ == "__main__":
    main()

"""How the widths of the groups are chosen, compared at equal MACs without training.

    python benchmarks/allocation.py mobilenet_v2
    python benchmarks/allocation.py resnet56

Top-1 of MobileNetV2 on `imagenet_val650` and of ResNet-56 on the first 2,000 test
images of CIFAR-10. All rows but the last two share one search.
"""

import argparse

import cifar
import imagenet
import numpy as np

import keras_greedy
from keras_greedy.budget.allocate import allocate
from keras_greedy.graph.costs import Costs
from keras_greedy.report import markdown
from keras_greedy.selection.cut import cut


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("network", choices=["mobilenet_v2", "resnet56"])
    if parser.parse_args().network == "mobilenet_v2":
        model = imagenet.load_model()
        data, _ = imagenet.read_images("imagenet_sample/all.tfrecord", 512)
        test = imagenet.read_images("imagenet_val650/val.tfrecord")
        budgets = [0.85, 0.73, 0.6, 0.5]
    else:
        model, budgets = cifar.load_model(), [0.8, 0.6, 0.5, 0.4]
        data, _ = cifar.read_images("train", 1024)
        test = cifar.read_images("test", 2000)
    print(f"full model: {top1(model, test):.1%}\n", flush=True)
    rows = [("widths by", *(f"{budget:.0%} of MACs" for budget in budgets))]
    for name, compact in roads(model, data):
        found = [top1(compact(budget), test) for budget in budgets]
        rows.append((name, *(f"{share:.1%}" for share in found)))
        print(*rows[-1], flush=True)
    print("\n" + markdown(rows))


def roads(model, data):
    """Names, and functions from a budget to a compact model."""
    paths = keras_greedy.search(model, data, verbose=0)
    measured = {n: paths.divergence[n].curve(p.errors) for n, p in paths.paths.items()}
    for name, widths_of in (
        ("the same share of each group", same_share),
        ("the same divergence for each group [ICML]", same_divergence),
    ):
        yield (
            name,
            lambda budget, own=widths_of: at_widths(
                paths, own(measured, budget, paths)
            ),
        )
    # At width 0, which is not measured by it, it is infinite: no branch goes.
    fisher = {n: np.append(np.inf, p.errors[1:]) for n, p in paths.paths.items()}
    yield (
        "Fisher error per MAC",
        lambda budget: at_widths(paths, by_price(fisher, budget, paths)),
    )
    yield "measured divergence per MAC (default)", paths.compact
    best = keras_greedy.search(model, data, objective="best", verbose=0)
    yield "that of the best of local and global [NeurIPS]", best.compact
    yield "the default, in two rounds", lambda b: in_two_rounds(paths, data, b)


def at_widths(paths, widths):
    compact = cut(paths.graph, paths.moments, paths.paths, widths, paths.step)
    keras_greedy.reestimate_batch_norm(compact, paths.data)
    return compact


def same_share(curves, budget, paths):
    """The largest share of every group that fits."""
    sizes = {name: len(curve) - 1 for name, curve in curves.items()}
    trials = (
        {name: nearest_width(share * size, size) for name, size in sizes.items()}
        for share in np.linspace(1, 0, 401)
    )
    return first_that_fits(trials, budget, paths)


def same_divergence(curves, budget, paths):
    """For each group the least width of no more divergence, the same for all."""
    widths = {
        n: keras_greedy.Budget(1.0).widths_of(len(c) - 1) for n, c in curves.items()
    }
    trials = (
        {
            name: next(w for w in widths[name] if curve[w] <= most)
            for name, curve in curves.items()
        }
        for most in np.geomspace(1e-6, 1e3, 2000)
    )
    return first_that_fits(trials, budget, paths)


def by_price(curves, budget, paths):
    return allocate(curves, keras_greedy.Budget(budget), Costs(paths.graph))


def nearest_width(width, size):
    widths = keras_greedy.Budget(1.0).widths_of(size)
    return min(widths, key=lambda own: abs(own - width))


def first_that_fits(trials, budget, paths):
    costs = Costs(paths.graph)
    return next(w for w in trials if costs.macs(w) <= budget * costs.macs())


def in_two_rounds(paths, data, budget):
    half_way = paths.compact((1 + budget) / 2)
    limit = keras_greedy.Budget(budget * Costs(paths.graph).macs())
    return keras_greedy.search(half_way, data, verbose=0).compact(limit)


def top1(model, test) -> float:
    images, labels = test
    answers = model.predict(images, batch_size=64, verbose=0).argmax(axis=-1)
    return float((answers == labels).mean())


if __name__ == "__main__":
    main()

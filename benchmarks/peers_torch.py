"""The part of `peers.py` that runs in PyTorch: prunes MobileNetV2 by Torch-Pruning.

    .venv-peers/bin/python benchmarks/peers_torch.py FOLDER

Reads the weights, images and labels that `peers.py` left in the folder, and writes the
weights of a pruned network there for each method and budget. It needs the environment
of `peers.txt`, without TensorFlow.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch_pruning
from peers_shared import (
    BLOCKS,
    BUDGETS,
    CHECKED_IMAGES,
    FULL,
    IGNORED,
    IMAGES_FILE,
    LABELS_FILE,
    METHODS,
    Block,
    Method,
    Weights,
    load_weights,
    relative_error,
    save_weights,
    weights_file,
)
from torch import nn

SIDE = 224
BATCH = 32
MULTIPLES = (8, 4, 2, 1)
"""Of the first that comes near the budget, all widths are multiples; keras_greedy's are
of 8. One ratio for all layers changes most of them by 8 at once."""

PORT_TOLERANCE = 1e-5
BISECTIONS = 12
MOST_PRUNED = 0.97
CLOSE, CLOSEST = 0.99, 0.997
"""Shares of the multiply-accumulates allowed: one that is good enough, and one at which
the search ends."""

STRIDED = {"Conv1"} | {f"{b.prefix}depthwise" for b in BLOCKS if b.stride == 2}


class Network(nn.Module):
    """MobileNetV2 with the layer names and the padding of keras.applications."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        for name, arrays in weights.items():
            self.add_module(name, layer_of(name, arrays))
        self.activation = nn.ReLU6()
        # Keras pads an even side only behind, for a stride of 2.
        self.pad = nn.ZeroPad2d((0, 1, 0, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the logits of images shaped `(batch, 3, height, width)`."""
        x = self.activation(self.bn_Conv1(self.Conv1(self.pad(images))))
        for block in BLOCKS:
            x = self._through(block, x)
        x = self.activation(self.Conv_1_bn(self.Conv_1(x)))
        return self.predictions(x.mean((2, 3)))

    def _through(self, block: Block, x: torch.Tensor) -> torch.Tensor:
        entered = x
        if block.index:
            x = self.activation(self._convolved(f"{block.prefix}expand", x))
        if block.stride == 2:
            x = self.pad(x)
        x = self.activation(self._convolved(f"{block.prefix}depthwise", x))
        x = self._convolved(f"{block.prefix}project", x)
        return entered + x if block.adds else x

    def _convolved(self, name: str, x: torch.Tensor) -> torch.Tensor:
        convolution = getattr(self, name)
        normalization = getattr(self, f"{name}_BN")
        return normalization(convolution(x))


def layer_of(name: str, arrays: list[np.ndarray]) -> nn.Module:
    """Returns the PyTorch layer of the arrays of a Keras layer."""
    tensors = [torch.from_numpy(array) for array in arrays]
    if len(tensors) == 4:
        return _batch_norm(*tensors)
    if len(tensors) == 2:
        return _dense(*tensors)
    return _convolution(name, tensors[0])


def _batch_norm(gamma, beta, mean, variance) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(len(gamma), eps=1e-3)
    layer.weight.data = gamma.clone()
    layer.bias.data = beta.clone()
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(variance)
    return layer


def _dense(kernel, bias) -> nn.Linear:
    layer = nn.Linear(*kernel.shape)
    layer.weight.data = kernel.T.clone()
    layer.bias.data = bias.clone()
    return layer


def _convolution(name: str, kernel: torch.Tensor) -> nn.Conv2d:
    height, _, inputs, outputs = kernel.shape
    groups = 1
    weight = kernel.permute(3, 2, 0, 1)
    if name.endswith("depthwise"):
        outputs = groups = inputs
        weight = kernel.permute(2, 3, 0, 1)
    strided = name in STRIDED
    layer = nn.Conv2d(
        inputs,
        outputs,
        height,
        stride=2 if strided else 1,
        padding=0 if strided else height // 2,
        groups=groups,
        bias=False,
    )
    layer.weight.data = weight.contiguous().clone()
    return layer


def weights_of(network: Network) -> Weights:
    """Returns the weights of a network as Keras shapes them."""
    weights = {}
    for name, layer in network.named_children():
        arrays = _arrays_of(name, layer)
        if arrays:
            weights[name] = [array.detach().contiguous().numpy() for array in arrays]
    return weights


def _arrays_of(name: str, layer: nn.Module) -> list[torch.Tensor]:
    if isinstance(layer, nn.BatchNorm2d):
        return [layer.weight, layer.bias, layer.running_mean, layer.running_var]
    if isinstance(layer, nn.Linear):
        return [layer.weight.T, layer.bias]
    if not isinstance(layer, nn.Conv2d):
        return []
    if name.endswith("depthwise"):
        return [layer.weight.permute(2, 3, 0, 1)]
    return [layer.weight.permute(2, 3, 1, 0)]


class Pruning:
    """The full network, and what the methods need to know of it.

    Attributes:
        weights: Of the full network.
        gradients: Parameter name -> gradient of the cross-entropy on labelled images.
        positions: Layer name -> positions at which its kernel is applied.
    """

    def __init__(self, weights: Weights, images: torch.Tensor, labels: torch.Tensor):
        self.weights = weights
        self.gradients = _gradients(self.network(), images, labels)
        self.positions = _positions(self.network(), images[:1])

    def network(self) -> Network:
        """Returns the full network anew."""
        return Network(self.weights).eval()

    def macs(self, network: Network) -> int:
        """Returns the multiply-accumulates of a network, full or pruned."""
        return sum(
            positions * getattr(network, name).weight.numel()
            for name, positions in self.positions.items()
        )

    def pruned(self, method: Method, ratio: float, multiple: int) -> Network:
        """Returns the network pruned by a method, of a share of the channels."""
        network = self.network()
        for name, parameter in network.named_parameters():
            parameter.grad = self.gradients[name].clone()
        prune(network, method, ratio, multiple)
        return network

    def within(self, method: Method, budget: float) -> Network:
        """Returns the network that a method prunes to a budget, the largest found."""
        allowed = budget * self.macs(self.network())
        for multiple in MULTIPLES:
            network = self._bisected(method, multiple, allowed)
            if network is not None and self.macs(network) >= CLOSE * allowed:
                return network
        if network is None:
            sys.exit(f"{method.name} does not reach {budget:.0%} of the MACs.")
        return network

    def _bisected(self, method, multiple, allowed) -> Network | None:
        low, high = 0.0, MOST_PRUNED
        best, best_macs = None, 0
        for _ in range(BISECTIONS):
            ratio = (low + high) / 2
            network = self.pruned(method, ratio, multiple)
            macs = self.macs(network)
            if macs > allowed:
                low = ratio
                continue
            high = ratio
            if macs > best_macs:
                best, best_macs = network, macs
            if macs >= CLOSEST * allowed:
                break
        return best


def _gradients(network, images, labels) -> dict[str, torch.Tensor]:
    for start in range(0, len(images), BATCH):
        logits = network(images[start : start + BATCH])
        expected = labels[start : start + BATCH]
        loss = nn.functional.cross_entropy(logits, expected, reduction="sum")
        (loss / len(images)).backward()
    return {name: each.grad for name, each in network.named_parameters()}


def _positions(network, image) -> dict[str, int]:
    positions = {}

    def note(name: str) -> Callable:
        def hook(layer, inputs, output):
            positions[name] = output[0, 0].numel()

        return hook

    for name, layer in network.named_children():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(note(name))
    with torch.no_grad():
        network(image)
    return positions


def prune(network: Network, method: Method, ratio: float, multiple: int) -> None:
    """Prunes a network in place; what is not named here is the default.

    Args:
        network: The full network, with gradients.
        method: How to prune it.
        ratio: Share of the channels to remove.
        multiple: All widths become multiples of it.
    """
    criteria = {
        "l1": lambda: torch_pruning.importance.MagnitudeImportance(p=1),
        "taylor": torch_pruning.importance.TaylorImportance,
        "bn": torch_pruning.importance.BNScaleImportance,
    }
    pruner = torch_pruning.pruner.BasePruner(
        network,
        torch.zeros(1, 3, SIDE, SIDE),
        importance=criteria[method.criterion](),
        # The isomorphic ranking is documented as a kind of the global one.
        global_pruning=method.ranking != "local",
        isomorphic=method.ranking == "isomorphic",
        pruning_ratio=ratio,
        ignored_layers=[getattr(network, name) for name in IGNORED[method.scope]],
        round_to=multiple,
    )
    pruner.step()


def softmax_of(network: Network, images: torch.Tensor) -> np.ndarray:
    """Returns the probabilities that a network computes."""
    with torch.no_grad():
        return network(images).softmax(-1).numpy()


def main():
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    work = arguments.folder
    weights, expected = load_weights(weights_file(work, FULL))
    images = torch.from_numpy(np.load(work / IMAGES_FILE)).permute(0, 3, 1, 2)
    images = images.contiguous()
    labels = torch.from_numpy(np.load(work / LABELS_FILE))
    checked = images[:CHECKED_IMAGES]
    error = relative_error(softmax_of(Network(weights).eval(), checked), expected)
    print(f"The port computes as the Keras model, to {error:.1e} of the softmax.")
    if error > PORT_TOLERANCE:
        sys.exit(f"Expected at most {PORT_TOLERANCE:.0e}.")
    pruning = Pruning(weights, images, labels)
    full_macs = pruning.macs(pruning.network())
    for budget in arguments.budgets:
        for name in arguments.methods:
            file = weights_file(work, name, budget)
            if file.exists():
                continue
            start = time.perf_counter()
            network = pruning.within(METHODS[name], budget).eval()
            save_weights(file, weights_of(network), softmax_of(network, checked))
            share = pruning.macs(network) / full_macs
            seconds = time.perf_counter() - start
            print(f"{name} {budget:.0%}: {share:.2%}, {seconds:.0f} s", flush=True)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--budgets", nargs="+", type=float, default=list(BUDGETS))
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()

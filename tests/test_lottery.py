"""Strong lottery tickets: random weights and masks that compute a target network."""

import warnings
import zipfile

import keras
import numpy as np
import pytest
from imagenet import DATA
from keras import layers, ops
from models import randomize

import keras_greedy
from keras_greedy.datasets import digits
from keras_greedy.lottery import (
    MaskedConv2D,
    MaskedDense,
    RandomNeurons,
    Ticket,
    find_ticket,
)

X = np.random.default_rng(1).normal(size=(40, 12)).astype("float32")


def find(model, *args, **kwargs):
    with warnings.catch_warnings():
        # Of few products, some do not add up to a weight.
        warnings.filterwarnings("ignore", ".*weights are larger than all")
        return find_ticket(model, *args, verbose=0, **kwargs)


def small(model, scale=0.3):
    """Random weights of a size that random products add up to."""
    randomize(model)
    model.set_weights([w * scale for w in model.get_weights()])
    return model


def perceptron(bias=True):
    return small(
        keras.Sequential(
            [
                keras.Input((12,)),
                layers.Dense(20, activation="relu", use_bias=bias, name="hidden"),
                layers.Dense(5, activation="softmax", use_bias=bias, name="head"),
            ]
        )
    )


@pytest.fixture(scope="module")
def target():
    return perceptron()


@pytest.fixture(scope="module")
def ticket(target):
    return find(target)


def error(model, ticket, x):
    return np.abs(
        model.predict(x, verbose=0) - ticket.model.predict(x, verbose=0)
    ).max()


# --- what a ticket is


def test_a_ticket_computes_what_its_target_does(target, ticket):
    assert error(target, ticket, X) < 1e-4
    assert ticket.max_error < 1e-3


def test_all_weights_of_a_ticket_are_random_kernels_and_binary_masks(target, ticket):
    names = {weight.name for weight in ticket.model.weights}
    assert names == {"kernel", "mask"}
    assert not ticket.model.trainable_weights
    ours = [w.numpy() for w in target.weights]
    for layer in ticket.model.layers:
        for weight in layer.weights:
            value = weight.numpy()
            if weight.name == "mask":
                assert value.dtype == bool
                continue
            assert np.abs(value).max() <= 1
            # Uniform numbers, of which none is of the target.
            assert abs(np.abs(value).mean() - 0.5) < 0.1
            assert not any(np.isin(value, own).any() for own in ours)


def test_the_random_weights_are_those_of_any_target(target):
    other = small(keras.models.clone_model(target), scale=0.1)
    kernels = [
        [w.numpy() for w in find(model, 10).model.weights if w.name == "kernel"]
        for model in (target, other)
    ]
    for one, two in zip(*kernels, strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_masks_are_what_makes_a_ticket(target, ticket):
    blind = keras.models.clone_model(ticket.model)
    blind.set_weights(ticket.model.get_weights())
    for layer in blind.layers:
        if isinstance(layer, MaskedDense):
            layer.mask.assign(np.ones(layer.mask.shape, bool))
    changed = blind.predict(X, verbose=0) - target.predict(X, verbose=0)
    assert np.abs(changed).max() > 0.1


def test_a_ticket_is_twice_as_deep_and_wider_by_its_redundancy(ticket):
    kernels = {
        layer.name: layer.kernel.shape
        for layer in ticket.model.layers
        if isinstance(layer, RandomNeurons | MaskedDense)
    }
    # A bias is the weight of one more input. Behind a ReLU none is negative.
    assert kernels == {
        "hidden_neurons": (13, 42),
        "hidden": (13 * 42, 20),
        "head_neurons": (21, 21),
        "head": (21 * 21, 5),
    }


def test_the_figures_of_a_ticket_count_its_masks(target, ticket):
    sizes = {name: mask.shape for name, mask in ticket.masks.items()}
    assert sizes == {
        layer.name: layer.kernel.shape
        for layer in ticket.model.layers
        if hasattr(layer, "kernel")
    }
    left = sum(mask.sum() for mask in ticket.masks.values())
    total = 13 * 42 * (1 + 20) + 21 * 21 * (1 + 5)
    assert ticket.sparsity == pytest.approx(1 - left / total)
    assert ticket.overparameterization == total / target.count_params()
    assert f"{total:,} random weights" in str(ticket)


def test_max_error_is_the_largest_of_any_weight(target, ticket):
    """Assembled again from the masks, for both signs of an input."""
    for name in ("hidden", "head"):
        into = ticket.model.get_layer(f"{name}_neurons")
        out_of = ticket.model.get_layer(name)
        b = into.kernel.numpy().astype(float) * into.mask.numpy()
        a = out_of.kernel.numpy().astype(float) * out_of.mask.numpy()
        a = a.reshape(*b.shape, -1)
        signs = (b > 0, b < 0) if name == "hidden" else (b > 0,)
        weights = np.concatenate(
            [w.numpy() for w in target.get_layer(name).weights][:1]
            + [target.get_layer(name).bias.numpy()[None]]
        )
        found = [np.einsum("ck,cko->co", b * sign, a) for sign in signs]
        # No input that is always 1 is ever negative.
        errors = [np.abs(f - weights)[: len(weights) - i] for i, f in enumerate(found)]
        assert max(e.max() for e in errors) <= ticket.max_error + 1e-9


def test_a_ticket_saves_and_loads_without_the_target(target, ticket, tmp_path):
    ticket.save(tmp_path / "ticket.keras")
    loaded = Ticket.load(tmp_path / "ticket.keras")
    assert str(loaded) == str(ticket)
    np.testing.assert_array_equal(
        loaded.model.predict(X, verbose=0), ticket.model.predict(X, verbose=0)
    )
    for name, mask in loaded.masks.items():
        np.testing.assert_array_equal(mask, ticket.masks[name])


def test_a_file_of_something_else_is_no_ticket(target, tmp_path):
    target.save(tmp_path / "model.keras")
    (tmp_path / "text.keras").write_text("no ticket")
    for name in ("model.keras", "text.keras"):
        with pytest.raises(ValueError, match=r"a file that Ticket.save wrote"):
            Ticket.load(tmp_path / name)


def test_a_ticket_is_saved_as_a_keras_file_only(ticket, tmp_path):
    with pytest.raises(ValueError, match=r"ending in .keras"):
        ticket.save(tmp_path / "ticket.h5")
    with pytest.raises(FileNotFoundError, match="missing first"):
        ticket.save(tmp_path / "missing" / "ticket.keras")
    assert not [*tmp_path.iterdir()]


def test_a_ticket_that_fails_to_be_saved_leaves_the_old_file(
    ticket, tmp_path, monkeypatch
):
    path = tmp_path / "ticket.keras"
    path.write_text("old")

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", fail)
    with pytest.raises(OSError, match="disk full"):
        ticket.save(path)
    assert path.read_text() == "old"
    assert [*tmp_path.iterdir()] == [path]


# --- how it is found


def test_the_target_is_not_changed():
    model = perceptron()
    model.compile("sgd", "mse")
    before = [w.copy() for w in model.get_weights()]
    find(model, 8)
    for one, two in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, two)
    assert model.compiled
    assert all(layer.trainable for layer in model.layers)


def test_a_seed_gives_the_same_ticket_and_another_one_another(target):
    one, two, other = (find(target, 9, seed=seed).model for seed in (3, 3, 4))
    for a, b, c in zip(one.weights, two.weights, other.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
        assert a.name == "mask" or (a.numpy() != c.numpy()).all()


def test_errors_fall_exponentially_with_the_redundancy(target):
    errors = [error(target, find(target, n), X) for n in (8, 14, 20)]
    assert errors[1] < errors[0] / 4
    assert errors[2] < errors[1] / 4


def test_epsilon_takes_the_smallest_redundancy_that_reaches_it(target):
    ticket = find(target, 24, epsilon=0.01)
    assert ticket.max_error <= 0.01
    assert ticket.redundancy < 24
    less = find(target, ticket.redundancy - 1)
    assert less.max_error > 0.01
    same = find(target, ticket.redundancy)
    for one, two in zip(
        same.model.get_weights(), ticket.model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("epsilon", [0.1, 0.05])
def test_epsilon_holds_for_a_greedy_solver_too(target, epsilon):
    ticket = find(target, 40, epsilon=epsilon, solver="greedy")
    assert ticket.max_error <= epsilon
    with pytest.raises(ValueError, match="suffices for epsilon"):
        find(target, 60, epsilon=1e-9, solver="greedy")


def test_what_the_error_of_a_small_redundancy_says_would_do_does(target):
    with pytest.raises(ValueError, match=r"suffices for epsilon=0.0001") as caught:
        find(target, 18, epsilon=1e-4)
    words = str(caught.value).split("which is ")[1]
    ticket = find(target, int(words.split()[0]), epsilon=1e-4)
    assert ticket.max_error <= 1e-4


def test_an_epsilon_far_below_what_the_products_can_do_is_refused_at_once(target):
    with pytest.raises(ValueError, match="which is 34 or more"):
        find(target, 21, epsilon=1e-10)


@pytest.mark.parametrize("solver", ["exact", "greedy", "milp"])
@pytest.mark.parametrize("distribution", ["uniform", "normal"])
def test_every_solver_and_distribution_gives_a_ticket(solver, distribution):
    model = small(keras.Sequential([keras.Input((3,)), layers.Dense(2)]))
    ticket = find(model, 14, solver=solver, distribution=distribution)
    x = X[:, :3]
    assert error(model, ticket, x) < {"greedy": 0.3}.get(solver, 0.02)


def test_a_relu_in_front_halves_the_first_layer():
    body = [layers.Dense(7, name="a")]
    model = small(keras.Sequential([keras.Input((5,)), layers.ReLU(), *body]))
    ticket = find(model, 15)
    assert ticket.masks["a_neurons"].shape == (6, 15)
    assert error(model, ticket, X[:, :5]) < 0.02


def test_weights_that_are_0_are_not_connected():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, use_bias=False)])
    model.set_weights([np.array([[0.5, 0.0], [0.0, 0.0], [0.2, -0.3]])])
    ticket = find(model, 12)
    mask = ticket.masks[model.layers[0].name].reshape(3, 24, 2)
    assert mask.any(axis=1).tolist() == [[True, False], [False, False], [True, True]]
    # Nor are neurons that nothing reads.
    assert not ticket.masks[f"{model.layers[0].name}_neurons"][1].any()


# --- the networks it is found for


def image(size=9, channels=2):
    return keras.Input((size, size + 1, channels))


CONVOLUTIONS = {
    "valid": {},
    "same": {"padding": "same"},
    "strides": {"padding": "same", "strides": 2},
    "uneven strides": {"strides": (3, 1), "kernel_size": (2, 3)},
    "dilation": {"padding": "same", "dilation_rate": 2},
    "even dilation": {"padding": "same", "dilation_rate": 3, "kernel_size": 2},
    "one pixel": {"kernel_size": 1},
    "no bias": {"padding": "same", "use_bias": False},
    "activation": {"activation": "tanh"},
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_is_made_of_random_ones(name):
    picture = image()
    conv = layers.Conv2D(**{"filters": 3, "kernel_size": 3} | CONVOLUTIONS[name])
    model = small(keras.Model(picture, conv(picture)), scale=0.2)
    assert_ticket_of(model)
    masked = find(model, 10).model.get_layer(conv.name)
    assert isinstance(masked, MaskedConv2D)


def assert_ticket_of(model, redundancy=18):
    ticket = find(model, redundancy)
    inputs = keras.tree.map_structure(
        lambda t: (
            np.random.default_rng(2)
            .normal(size=[size or 9 for size in (6, *t.shape[1:])])
            .astype("float32")
        ),
        model.input,
    )
    full, found = (
        model.predict(inputs, verbose=0),
        ticket.model.predict(inputs, verbose=0),
    )
    for one, two in zip(*map(keras.tree.flatten, (full, found)), strict=True):
        assert one.std() > 0.02
        np.testing.assert_allclose(two, one, atol=0.02 * np.abs(one).max())
    return ticket


def batch_norms_and_a_join():
    x = picture = image()
    x = layers.Conv2D(4, 3, padding="same", use_bias=False, name="stem")(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    y = layers.Conv2D(4, 3, padding="same", activation="relu", name="branch")(x)
    x = layers.GlobalAveragePooling2D()(layers.MaxPooling2D()(x + y))
    return keras.Model(picture, layers.Dense(3, name="head")(layers.Dropout(0.5)(x)))


def shared_by_two_inputs():
    shared = layers.Dense(6, name="shared")
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    # The second time its inputs are not negative.
    x, y = shared(a), shared(ops.relu(b))
    outputs = {"sum": layers.Dense(2)(x + y), "product": x * y}
    return keras.Model({"a": a, "b": b}, outputs)


def nested():
    inner = keras.Sequential(
        [keras.Input((6,)), layers.Dense(5, activation="relu", name="one")],
        name="inner",
    )
    x = keras.Input((6,))
    return keras.Model(x, layers.Dense(3, name="two")(inner(x)))


def sequence():
    x = keras.Input((7, 4))
    return keras.Model(x, layers.Dense(3)(layers.Dense(5, activation="gelu")(x)))


def any_image_size():
    x = picture = keras.Input((None, None, 2))
    x = layers.Conv2D(3, 3, padding="same", activation="relu")(x)
    return keras.Model(picture, layers.Conv2D(2, 3, strides=2)(x))


@pytest.mark.parametrize(
    "build",
    [batch_norms_and_a_join, shared_by_two_inputs, nested, sequence, any_image_size],
)
def test_networks_of_every_kind_have_tickets(build):
    model = small(build(), scale=0.4)
    ticket = assert_ticket_of(model)
    assert ticket.model.name == model.name


def test_layers_without_weights_stay_what_they_are():
    model = batch_norms_and_a_join()
    ticket = find(small(model), 8)
    names = [layer.name for layer in ticket.model.layers]
    for layer in model.layers:
        if isinstance(layer, layers.MaxPooling2D | layers.Dropout):
            assert layer.name in names


class Negative(layers.Layer):
    """Has an attribute of this name, which is not what it returns."""

    def __init__(self):
        super().__init__()
        self.activation = keras.activations.relu

    def call(self, inputs):
        return inputs - self.activation(inputs)

    def get_config(self):
        return {}


@pytest.mark.parametrize(
    "between",
    [
        lambda: [layers.ReLU(), layers.UpSampling2D(2, interpolation="bicubic")],
        lambda: [layers.ReLU(), layers.UpSampling2D(2, interpolation="bilinear")],
        lambda: [Negative()],
        lambda: [layers.ReLU(negative_slope=0.3)],
        lambda: [layers.Activation("leaky_relu")],
        lambda: [layers.ReLU(), layers.AveragePooling2D(2)],
    ],
    ids=["bicubic", "bilinear", "own layer", "slope", "leaky", "pool"],
)
def test_what_may_be_negative_is_not_taken_for_positive(between):
    x = picture = keras.Input((6, 6, 2))
    for layer in between():
        x = layer(x)
    model = keras.Model(picture, layers.Conv2D(3, 2, name="a")(x))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Some channels of model", UserWarning)
        assert_ticket_of(small(model), redundancy=20)


@pytest.mark.parametrize("policy", ["float16", "mixed_bfloat16"])
def test_the_global_precision_does_not_round_random_weights(policy):
    model = perceptron()
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        ticket = find(model)
    finally:
        keras.config.set_dtype_policy(before)
    assert error(model, ticket, X) < 1e-4


def test_the_global_data_format_is_not_that_of_the_target():
    picture = image()
    conv = layers.Conv2D(2, 3, padding="same", data_format="channels_last")
    model = small(keras.Model(picture, conv(picture)), scale=0.2)
    keras.config.set_image_data_format("channels_first")
    try:
        assert_ticket_of(model)
    finally:
        keras.config.set_image_data_format("channels_last")


def test_layers_of_names_that_a_ticket_has_get_others():
    inner = keras.Sequential([keras.Input((5,)), layers.Dense(4, name="one")])
    inner.name = "inner"
    x = keras.Input((5,), name="inner_one_neurons")
    y = layers.Dense(5, "relu", name="a")(x)
    y = layers.Dense(5, "relu", name="a_neurons")(y)
    y = layers.Dense(3, name="inner_one")(inner(y))
    assert_ticket_of(small(keras.Model(x, y)), redundancy=20)


def test_integers_are_read_as_numbers():
    whole = keras.Input((6,), dtype="int32")
    model = small(keras.Model(whole, layers.Dense(3)(whole)))
    x = np.random.default_rng(0).integers(-3, 4, (20, 6))
    assert error(model, find(model), x) < 1e-3


def test_masks_of_time_steps_pass():
    steps = [keras.Input((4, 3)), layers.Masking(), layers.Dense(2)]
    model = small(keras.Sequential(steps))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Some channels of model", UserWarning)
        ticket = find(model)
    assert error(model, ticket, X[:, :12].reshape(-1, 4, 3)) < 0.01


def test_neurons_read_inputs_of_any_rank():
    for shape in [(3,), (5, 3), (4, 5, 3)]:
        neurons = RandomNeurons(4, use_constant=True)
        x = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
        assert neurons(x).shape == (2, *shape[:-1], 16)
        assert neurons.compute_output_shape((None, *shape)) == (None, *shape[:-1], 16)


# --- on real images


def classifier(hidden, size):
    shape = [keras.Input((size, size, 1)), layers.Flatten(), layers.ReLU()]
    body = [layers.Dense(hidden, activation="relu"), layers.Dense(10)]
    model = keras.Sequential([*shape, *body])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    return model


def test_a_ticket_of_a_network_for_digits_classifies_them_alike():
    (x, y), (x_test, y_test) = digits(8)
    keras.utils.set_random_seed(0)
    model = classifier(16, 8)
    model.fit(x, y, epochs=10, verbose=0)
    found = find(model).model.predict(x_test, verbose=0).argmax(axis=1)
    full = model.predict(x_test, verbose=0).argmax(axis=1)
    assert (full == y_test).mean() > 0.8
    assert (found == full).mean() > 0.99


@pytest.mark.slow
def test_a_ticket_of_a_network_for_mnist_classifies_as_well():
    file = DATA / "mnist" / "mnist.npz"
    if not file.is_file():
        pytest.skip(f"MNIST is not at {file}")
    with np.load(file) as data:
        x, x_test = (data[f"x_{part}"][..., None] / 255 for part in ("train", "test"))
        y, y_test = data["y_train"], data["y_test"]
    model = classifier(100, 28)
    model.fit(x, y, epochs=2, batch_size=128, verbose=0)
    found = find(model).model.predict(x_test, verbose=0).argmax(axis=1)
    accuracy = model.evaluate(x_test, y_test, verbose=0)[1]
    assert accuracy > 0.9
    assert abs((found == y_test).mean() - accuracy) <= 0.001


# --- bad input


def with_weight(value, layer=0):
    model = perceptron()
    kernel, *rest = model.layers[layer].get_weights()
    kernel[3, 2] = value
    model.layers[layer].set_weights([kernel, *rest])
    return model


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(value):
    with pytest.raises(ValueError, match="layer 'hidden' with 1 weights that are not"):
        find(with_weight(value))


def test_a_weight_out_of_reach_is_named_and_the_redundancy_that_reaches_it_does():
    model = with_weight(4.0, layer=1)
    with pytest.raises(ValueError, match=r"layer 'head'.*a weight of size 4") as caught:
        find(model)
    redundancy = int(str(caught.value).split("redundancy=")[1].split()[0])
    # The exact solver is slow there; what is tested is the reach.
    ticket = find(model, redundancy, solver="greedy")
    assert ticket.redundancy == redundancy
    code = str(caught.value).split("distribution=")[1]
    larger = eval(code)
    assert find(model, distribution=larger).max_error < 0.3
    assert error(model, find(model, distribution=larger), X) < 0.05


def test_weights_out_of_reach_by_chance_are_counted():
    layer = layers.Dense(20, use_bias=False)
    model = keras.Sequential([keras.Input((50,)), layers.ReLU(), layer])
    layer.set_weights([np.full((50, 20), 0.01)])
    with pytest.warns(UserWarning, match=r"of 1,000 weights are larger") as caught:
        find_ticket(model, 3, verbose=0)
    # All three products are negative, or hardly positive.
    (message,) = [w for w in map(str, (c.message for c in caught)) if "larger" in w]
    count = int(message.split()[0])
    assert 1 / 8 < count / 1000 < 1 / 4


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: layers.DepthwiseConv2D(3, name="d"), "'d' \\(DepthwiseConv2D\\)"),
        (
            lambda: layers.Conv2D(4, 1, groups=2, name="g"),
            "'g' \\(Conv2D with groups=2",
        ),
        (lambda: layers.BatchNormalization(name="bn"), "'bn' \\(BatchNormalization\\)"),
        (lambda: layers.ReLU(), "without a weight"),
        (
            lambda: layers.Dense(2, activation=layers.PReLU(), name="p"),
            r"'p' \(Dense with a PReLU",
        ),
    ],
)
def test_layers_that_no_ticket_has_are_named(build, match):
    picture = image()
    with pytest.raises(ValueError, match=match):
        find(keras.Model(picture, build()(picture)))


def test_quantized_layers_are_named():
    model = perceptron()
    for layer in model.layers:
        layer.quantize("int8")
    with pytest.raises(ValueError, match=r"'hidden' \(Dense quantized to int8"):
        find(model)


def test_a_redundancy_that_the_exact_solver_refuses_is_not_advised():
    with pytest.raises(ValueError, match=r"size 9. Use larger random weights"):
        find(with_weight(9.0, layer=1))


def test_a_padding_that_depends_on_the_images_size_needs_one():
    picture = keras.Input((None, None, 2))
    conv = layers.Conv2D(3, 3, strides=2, padding="same", name="conv")
    model = small(keras.Model(picture, conv(picture)))
    with pytest.raises(ValueError, match=r"layer 'conv'.*one known size"):
        find(model)
    known = keras.Input((6, 6, 2))
    model = keras.Model([picture, known], [conv(picture), conv(known)])
    with pytest.raises(ValueError, match=r"layer 'conv'.*one known size"):
        find(model)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"redundancy": 0}, "`redundancy` to be a positive integer"),
        ({"redundancy": 2.5}, "`redundancy` to be a positive integer"),
        ({"redundancy": True}, "`redundancy` to be a positive integer"),
        ({"distribution": "cauchy"}, "`distribution` to be one of"),
        ({"distribution": lambda rng, shape: np.ones(3)}, "of shape"),
        ({"distribution": lambda rng, shape: np.zeros(shape)}, "`distribution` to"),
        ({"distribution": lambda rng, shape: np.full(shape, "a")}, "`distribution` to"),
        ({"distribution": lambda rng, shape: np.full(shape, np.nan)}, "finite numbers"),
        ({"solver": "best"}, "`solver` to be one of"),
        ({"epsilon": 0}, "`epsilon`"),
        ({"epsilon": "small"}, "`epsilon`"),
        ({"epsilon": np.inf}, "`epsilon`"),
        ({"epsilon": True}, "`epsilon`"),
        ({"epsilon": 5e-324}, "which is 1074 or more"),
        ({"seed": -1}, "`seed`"),
        ({"seed": None}, "`seed`"),
        ({"redundancy": 45}, "at most 44"),
        ({"verbose": 3}, "`verbose`"),
    ],
)
def test_arguments_are_checked(target, options, match):
    with pytest.raises(ValueError, match=match):
        find_ticket(target, **{"verbose": 0} | options)


@pytest.mark.parametrize("model", [None, keras.Sequential([layers.Dense(2)])])
def test_what_is_no_built_model_is_refused(model):
    with pytest.raises(ValueError, match="Expected `model`"):
        find(model)


def test_the_lottery_is_there_after_a_plain_import():
    assert keras_greedy.lottery.find_ticket is find_ticket
    assert "lottery" in dir(keras_greedy)

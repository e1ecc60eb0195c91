"""Takes the gates off a wrapped model, and the channels that they have closed."""

import keras

from keras_greedy.graph.model_kinds import check_has_graph
from keras_greedy.scopes import on_devices_of_model
from keras_greedy.while_training.gated_model import GatedModel
from keras_greedy.while_training.layers import GreedyChannels, wrappers_of
from keras_greedy.while_training.running import is_in_fit, optimizer_of, steps_taken
from tflite_export.user_warnings import warn_user

ROUNDING = 1e-6
"""Of the share of MACs that is left and the one of the schedule."""


@on_devices_of_model
def strip_pruning(wrapped: keras.Model) -> keras.Model:
    """Makes the compact model of a wrapped one: plain Keras, without closed channels.

    It warns when more is left than the selections left, or, of a model that was
    trained or loaded, than its schedule says: a callback or a checkpoint has then
    restored the weights, and the gates, of an earlier time.

    Args:
        wrapped: A model with `GreedyChannels` layers; it is not changed.

    Returns:
        A Sequential for a Sequential, else a functional `keras.Model`, not compiled;
        it predicts the same as `wrapped`.

    Raises:
        ValueError: When `wrapped` is not a Functional or Sequential model, has no
            `GreedyChannels`, or has some inside of another layer.

    Example:

    ```python
    import keras

    import keras_greedy

    model = keras.Sequential(
        [keras.Input((10,)), keras.layers.Dense(16), keras.layers.Dense(3)]
    )
    wrapped = keras_greedy.prune_greedy(model)
    compact = keras_greedy.strip_pruning(wrapped)
    compact.save("compact.keras")
    ```
    """
    check_has_graph(wrapped)
    wrappers = wrappers_of(wrapped)
    _check_all_in_reach(wrapped, wrappers)
    if not wrappers:
        raise ValueError(
            "Expected `wrapped` to be a model that `prune_greedy` has wrapped. "
            f"Received: wrapped={wrapped!r}, without a GreedyChannels layer"
        )
    gated = GatedModel(wrapped)
    _warn_if_open_again(wrapped, wrappers, gated.share_of_macs())
    return gated.compact()


def _check_all_in_reach(model: keras.Model, wrappers: list[GreedyChannels]) -> None:
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, GreedyChannels) and layer not in wrappers:
            raise ValueError(
                "Expected `GreedyChannels` to be layers of the model or of models "
                "inside it: there is no stripping one inside of another layer, such as "
                f"TimeDistributed. Received: layer '{layer.name}' inside of one"
            )


def _warn_if_open_again(
    model: keras.Model,
    wrappers: list[GreedyChannels],
    left: float,
) -> None:
    """Warns when weights of before a selection were restored, and with them gates."""
    selected = wrappers[0].macs_left
    if selected is not None and left > selected + ROUNDING:
        warn_user(
            f"The compact model has {left:.1%} of the MACs, where the last selection "
            f"left {selected:.1%}: gates are open again, as weights of before it were "
            "restored. Train on with a GreedySelectionStep, which selects anew, and "
            "have callbacks that restore weights begin behind the schedule"
        )
    elif selected is None and _is_of_a_training(model, wrappers):
        target = max(wrapper.selection_schedule.macs for wrapper in wrappers)
        if left > target + ROUNDING:
            warn_user(
                f"The compact model has {left:.1%} of the MACs, not the {target:.1%} "
                "of the schedule: these are weights of before its end. Train on with a "
                "GreedySelectionStep"
            )


def _is_of_a_training(model: keras.Model, wrappers: list[GreedyChannels]) -> bool:
    """Returns whether the model has been trained, and is not in a training now."""
    if is_in_fit(model):
        return False
    if any(gate.is_loaded for wrapper in wrappers for gate in wrapper.gates):
        return True
    optimizer = optimizer_of(model)
    return optimizer is not None and steps_taken(optimizer) > 0

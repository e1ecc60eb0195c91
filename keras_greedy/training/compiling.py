"""The compile settings of a model, for another one of the same outputs."""

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import keras

from tflite_export.user_warnings import warn_user

Settings: TypeAlias = dict[str, Any]
"""The arguments of `compile`."""

METRICS = ("metrics", "weighted_metrics")

OWN_TRAINING = (
    "compile",
    "fit",
    "train_step",
    "test_step",
    "make_train_function",
    "compute_loss",
    "compute_metrics",
)
"""The methods that say how a model is trained, where a class has its own."""


def compile_alike(
    compact: keras.Model,
    model: keras.Model,
    quiet: bool = False,
) -> None:
    """Compiles `compact` with the settings of `model`, if it has any.

    Losses and functions are the same objects; optimizer and metrics, which have a
    state, are copied. Whatever cannot be stays behind, with a warning.

    Args:
        compact: Compiled in place.
        model: Has the same outputs.
        quiet: Do not warn: it was said before.
    """
    if not model.compiled:
        return
    settings, left = settings_of(model)
    try:
        compact.compile(**settings)
        if compact.built:
            compact.optimizer.build(compact.trainable_variables)
    except Exception as error:
        # The search is done: it is not lost because the user's objects fail.
        left["all of them"] = error
    if left and not quiet:
        reasons = [f"{name} ({_first_line(error)})" for name, error in left.items()]
        warn_user(
            "Of the compile settings of the model, some could not be carried over to "
            f"the compact one: {', '.join(reasons)}. Compile it yourself before you "
            "train it further; its weights are not concerned."
        )


def settings_of(model: keras.Model) -> tuple[Settings, dict[str, Exception]]:
    """Returns the compile settings of a model for another one.

    Args:
        model: A compiled model.

    Returns:
        The arguments of `compile`, and the error of each that cannot be copied.
    """
    # The objects themselves, not what `get_compile_config` makes of them: that can
    # neither be had of a lambda nor be read back of a class that is not registered.
    config = getattr(model, "_compile_config", None)
    given = dict(getattr(config, "config", {}))
    settings = {"optimizer": model.optimizer, "loss": model.loss} | given
    left: dict[str, Exception] = {}
    copies: dict[str, Callable] = {"optimizer": copied_optimizer}
    copies |= dict.fromkeys(METRICS, _copied_metrics)
    for name, copy in copies.items():
        try:
            settings[name] = copy(settings.get(name))
        except Exception as error:
            left[name] = error
            del settings[name]
    return settings, left


def copied_optimizer(optimizer: keras.Optimizer | None) -> keras.Optimizer | None:
    """Returns a new optimizer with the settings of another, which may be of one's own.

    Raises:
        Exception: Of any class, when its class does not allow that.
    """
    if optimizer is None:
        return None
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return type(optimizer)(
            copied_optimizer(optimizer.inner_optimizer),
            initial_scale=optimizer.initial_scale,
            dynamic_growth_steps=optimizer.dynamic_growth_steps,
            name=optimizer.name,
        )
    rate: Any = getattr(optimizer, "_learning_rate", None)
    is_function = callable(rate) and not isinstance(rate, keras.Variable)
    if is_function and not _is_keras(rate):
        # A schedule of one's own may have no config, or one that cannot be read back.
        # It is a function of the step: two optimizers can have the same.
        return _copied(optimizer, _config_with(optimizer, rate))
    return _copied(optimizer, optimizer.get_config())


def warn_of_own_training(model: keras.Model) -> None:
    """Warns when the class of a model has its own way to train: it stays behind."""
    own = own_training(model)
    if own:
        warn_user(
            f"The class {type(model).__name__} of the model has its own "
            f"{', '.join(own)}. The compact model is an ordinary keras.Model: these "
            "stay behind, and a `finetune` trains it with Keras' own ones."
        )


def own_training(model: keras.Model) -> list[str]:
    """Returns the methods of training that a model's class has not from Keras."""
    own = []
    for name in OWN_TRAINING:
        method = getattr(type(model), name, None)
        if method is not None and not _is_keras(inspect.unwrap(method)):
            own.append(name)
    return own


def _config_with(optimizer: keras.Optimizer, rate: Callable) -> Settings:
    """Returns the config of an optimizer, its learning rate schedule as it is."""
    twin = object.__new__(type(optimizer))
    # Keras' own `__setattr__` would track the variables once more.
    vars(twin).update(vars(optimizer), _learning_rate=None)
    config = twin.get_config()
    if "learning_rate" in config:
        config["learning_rate"] = rate
    return config


def _copied_metrics(structure: Any) -> Any:
    if isinstance(structure, dict):
        return {name: _copied_metrics(value) for name, value in structure.items()}
    if isinstance(structure, list | tuple):
        return [_copied_metrics(value) for value in structure]
    if isinstance(structure, keras.Metric):
        return _copied(structure, structure.get_config())
    return structure


def _copied(instance: Any, config: Settings) -> Any:
    """Returns an instance of the same class, made from its config.

    Raises:
        Exception: Of any class, when its class does not allow that.
    """
    # `from_config` may take entries out of it.
    copy = type(instance).from_config(dict(config))
    for name in _parameters(type(instance)):
        has = getattr(instance, name, None)
        if name not in config and (has is None or has != getattr(copy, name, None)):
            raise ValueError(
                f"`get_config` of {type(instance).__name__} lacks {name!r}"
            )
    return copy


def _parameters(kind: type) -> list[str]:
    """Returns the names of the arguments of a class that is not Keras' own."""
    if _is_keras(kind):
        return []
    signature = inspect.signature(kind)
    named = (
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.KEYWORD_ONLY,
    )
    return [name for name, each in signature.parameters.items() if each.kind in named]


def _is_keras(value: Any) -> bool:
    """Returns whether a function or a class, or that of an instance, is Keras' own."""
    if not hasattr(value, "__qualname__"):
        value = type(value)
    return (getattr(value, "__module__", "") or "").split(".")[0] == "keras"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"

"""The counterpart of a layer in the other library."""

import dataclasses
from typing import Any

from keras_greedy.interop.either import AnyLayer, AnyTensor


class Refused(Exception):
    """Raised for a layer without a counterpart; says why."""


@dataclasses.dataclass(frozen=True)
class Translated:
    """The layers that compute the same as one of the other library.

    Attributes:
        first: The layer that takes the weights; `None` for an activation that the
            other library does not have.
        after: Layers that make up for an activation, one after the other.
        product: The layer that multiplies the outcome of `after` by its input, if the
            activation ends so.
    """

    first: AnyLayer | None
    after: list[AnyLayer] = dataclasses.field(default_factory=list)
    product: AnyLayer | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> AnyTensor:
        if self.first is None:
            x = args[0]
        else:
            x = self.first(*args, **kwargs)
        y = x
        for layer in self.after:
            y = layer(y)
        if self.product is None:
            return y
        return self.product([x, y])

    def in_a_row(self) -> list[AnyLayer]:
        """Returns the layers, for a Sequential.

        Raises:
            Refused: When they do not compute one after the other.
        """
        if self.product is not None:
            raise Refused(
                "its activation is a product, which a Sequential cannot have: make "
                "the model a keras.Model(inputs, outputs)"
            )
        if self.first is None:
            return self.after
        return [self.first, *self.after]

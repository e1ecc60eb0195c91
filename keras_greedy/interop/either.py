"""Names for things of either library: neither comes with type information."""

from typing import Any, TypeAlias

# Of Keras 3 or of tf_keras, as all of these.
AnyLayer: TypeAlias = Any
AnyModel: TypeAlias = Any
# Symbolic, or with values.
AnyTensor: TypeAlias = Any

"""Names of layers that both libraries allow."""

import re
from collections.abc import Iterable

# tf_keras makes name scopes of them; Keras 3 forbids slashes, by which it writes paths.
FORBIDDEN = {
    "tf_keras": re.compile(r"^[^A-Za-z0-9.]|[^A-Za-z0-9_./-]"),
    "keras": re.compile("/"),
}


class Names:
    """The names of the layers of one model, each used once.

    Args:
        library: Whose names they are to be: `"keras"` or `"tf_keras"`.
        names: All names of the model. Those that are allowed stay.
    """

    def __init__(self, library: str, names: Iterable[str]):
        self._forbidden = FORBIDDEN[library]
        self._new: dict[str, str] = {}
        changed = []
        # Allowed names first: one that is made up must not take another's.
        for name in dict.fromkeys(names):
            if self._forbidden.search(name):
                changed.append(name)
            else:
                self._new[name] = name
        for name in changed:
            self._new[name] = self._free(name)

    def __getitem__(self, name: str) -> str:
        return self._new[name]

    def _free(self, name: str) -> str:
        """Returns an allowed name that no other layer has."""
        new = self._forbidden.sub("_", name).lstrip("_") or "layer"
        while new in self._new.values():
            new += "_"
        return new

"""Names of layers that both libraries allow."""

import re

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

    def __init__(self, library: str, names):
        self._forbidden = FORBIDDEN[library]
        names = list(dict.fromkeys(names))
        self._new = {n: n for n in names if not self._forbidden.search(n)}
        for name in names:
            if name not in self._new:
                self._new[name] = self._free(name)

    def __getitem__(self, name: str) -> str:
        return self._new[name]

    def _free(self, name: str) -> str:
        new = self._forbidden.sub("_", name).lstrip("_") or "layer"
        while new in self._new.values():
            new += "_"
        return new

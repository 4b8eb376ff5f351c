"""Naming parameters of a network by pattern: `layer4`, `features.1`, `blocks.?.attn`, `*.bias`, `head`.

A pattern without `*?[` is a dotted prefix: `layer4` is `layer4.0.conv1.weight`, and `features.1` is not `features.10`. With
one of those it is a shell pattern for a whole name or a dotted prefix of it. A layer's own name, as tables show it, stands
for all of that layer, and what the network itself calls its classifying layer (`fc`) stands for the new head.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tle.errors import UsageError
from tle.names import near_names

_MAGIC = "*?["


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters that patterns are about.

    Attributes:
        names: for each public name all that it may be called: the name itself, and other names of the same thing.
        layers: public name to the name of its layer.
    """

    names: Mapping[str, Sequence[str]]
    layers: Mapping[str, str]

    def match(self, pattern: str, *, flag: str) -> frozenset[str]:
        """Public names that a pattern stands for.

        Args:
            pattern: as above.
            flag: where it was given, for the message.

        Raises:
            UsageError: it stands for nothing; names near it are given.
        """
        found = frozenset(
            name
            for name, called in self.names.items()
            if self.layers[name] == pattern or any(_matches(pattern, other) for other in called)
        )
        if not found:
            layers = list(dict.fromkeys(self.layers.values()))
            raise UsageError(
                f"{flag} {pattern!r} matches no parameter{near_names(pattern, self._known())}; layers are "
                f"{', '.join(layers)}"
            )
        return found

    def _known(self) -> Iterable[str]:
        known = dict.fromkeys(self.layers.values())
        for called in self.names.values():
            for name in called:
                parts = name.split(".")
                known |= dict.fromkeys(".".join(parts[:depth]) for depth in range(1, len(parts) + 1))
        return known


def _matches(pattern: str, name: str) -> bool:
    if not any(sign in pattern for sign in _MAGIC):
        return name == pattern or name.startswith(f"{pattern}.")
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:depth]), pattern) for depth in range(1, len(parts) + 1))

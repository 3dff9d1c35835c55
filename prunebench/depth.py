"""Depth: how deep in a language model methods prune that look first and drop late."""

PUBLISHED = {28: 18, 32: 21, 36: 23, 40: 26}
"""By the number of layers, the layer behind which the released models of GlimpsePrune prune, from
0.
"""

SHARE = 0.65
"""About how deep that is."""


def late_layer(layers: int) -> int:
    """The layer behind which a late method prunes in a model of `layers`, counted from 0: as
    published, and about as deep in models that nobody has published one for.
    """
    return PUBLISHED.get(layers, max(0, round(SHARE * layers) - 1))

"""Colours that remain apart for the colour-blind (Okabe and Ito), and how peers are told apart."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from perf.comparison.names import KEPT, OURS, REMOTE, crowd

BLUE, SKY, GREEN = "#0072B2", "#56B4E9", "#009E73"
VERMILION, ORANGE, PURPLE, YELLOW = "#D55E00", "#E69F00", "#CC79A7", "#F0E442"
GREY, LIGHT, INK = "#9a9a9a", "#cccccc", "#222222"

_KEPT = "kept on the node between builds"
_REMOTE = "a fresh pod with a remote cache"
_OTHERS = "a fresh pod without a cache"
#: Kinds of peers, as legends name them.
KINDS = {OURS: VERMILION, _KEPT: BLUE, _REMOTE: SKY, _OTHERS: GREY}


def kind(peer: str) -> str:
    """Return the kind of a peer."""
    name, _ = crowd(peer)
    if name.startswith(OURS):
        return OURS
    if name in KEPT:
        return _KEPT
    return _REMOTE if name in REMOTE else _OTHERS


def colour(peer: str) -> str:
    """Return a peer's colour."""
    return KINDS[kind(peer)]


def name_rows(panel: Axes, peers: Sequence[str], names: Sequence[str]) -> None:
    """Name the rows of a panel from the top down; buildsvc's stand out."""
    panel.set_yticks(range(len(peers)), names)
    for peer, text in zip(peers, panel.get_yticklabels(), strict=True):
        text.set_fontweight("bold" if peer.startswith(OURS) else "normal")
    panel.set_ylim(len(peers) - 0.4, -0.6)

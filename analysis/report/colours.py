"""Colours by role, light and dark, and how each kernel is drawn: a hue per format, a line per scheme."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from analysis.kernel_kinds import BASELINE, NATIVE_KERNELS
from analysis.report.figure import Dash, Marker, Style

LIGHT: Mapping[str, str] = {
    "page": "#ffffff",
    "card": "#f6f7f9",
    "ink": "#1b1f24",
    "muted": "#5f6872",
    "grid": "#e2e5ea",
    "bf16": "#3d444d",
    "nf4": "#1f5fc4",
    "fp4": "#c96400",
    "int8": "#0b7f63",
    "fp8": "#9a35ad",
    "int4": "#85552a",
    "good": "#147a42",
    "bad": "#c02b2b",
    "warn": "#8f6200",
    "cell-good": "#4fb783",
    "cell-bad": "#e4736b",
    "peer0": "#6d7fa0",
    "peer1": "#ad7f38",
    "peer2": "#4c9484",
    "peer3": "#a76cb0",
    "peer4": "#a3664c",
    "peer5": "#7d8630",
    "peer6": "#c06a86",
    "peer7": "#4b7e9c",
    "peer8": "#86868a",
}
"""Colours on white, by role."""

DARK: Mapping[str, str] = {
    "page": "#12151a",
    "card": "#1b2027",
    "ink": "#e8eaed",
    "muted": "#a0a9b4",
    "grid": "#2d333c",
    "bf16": "#c5ccd6",
    "nf4": "#6ea8ff",
    "fp4": "#ffa24f",
    "int8": "#41d0a8",
    "fp8": "#de92ee",
    "int4": "#d0a06c",
    "good": "#57d28b",
    "bad": "#ff7d75",
    "warn": "#e8b84a",
    "cell-good": "#227a50",
    "cell-bad": "#a83f3a",
    "peer0": "#9db0d3",
    "peer1": "#d9ad66",
    "peer2": "#7cc6b6",
    "peer3": "#cf9dd8",
    "peer4": "#d59a80",
    "peer5": "#b4bd63",
    "peer6": "#ea9cb5",
    "peer7": "#83b4d1",
    "peer8": "#b5b5ba",
}
"""Colours on near-black, by role."""

_FORMATS = ("nf4", "fp4", "int8", "fp8", "int4")
_SCHEMES: Mapping[str, tuple[Dash, Marker, float]] = {
    "fused": ("solid", "circle", 2.4),
    "unfused": ("dot", "cross", 1.5),
    "null": ("dashdot", "star", 1.5),
    "native": ("dash", "square", 1.8),
}
_PEERS = 9
_PEER_MARKERS: tuple[Marker, ...] = ("square", "triangle", "diamond")


def split_name(kernel: str) -> tuple[str, str]:
    """Split a kernel's name into scheme and format.

    Returns:
        Such as ``("fused", "nf4")``; ``("native", "")`` for bf16 and gemv_bf16, ``("", "")`` for another library's
        kernel.
    """
    scheme, _, fmt = kernel.partition("_")
    if kernel in NATIVE_KERNELS:
        return "native", ""
    return (scheme, fmt) if scheme in _SCHEMES and fmt else ("", "")


def is_peer(kernel: str) -> bool:
    """Whether a kernel is another library's, by its name."""
    return split_name(kernel) == ("", "")


def role_of(kernel: str) -> str:
    """Return the colour role of a kernel that is not a peer; ``bf16`` for a format without a hue."""
    fmt = split_name(kernel)[1].removesuffix("_bnb")
    return fmt if fmt in _FORMATS else "bf16"


def styles(kernels: Iterable[str]) -> dict[str, Style]:
    """Give every kernel of a figure its style; peers share a list of muted hues, in the order given."""
    found: dict[str, Style] = {}
    peers = 0
    for kernel in dict.fromkeys(kernels):
        if is_peer(kernel):
            marker = _PEER_MARKERS[peers % len(_PEER_MARKERS)]
            found[kernel] = Style(f"peer{peers % _PEERS}", "dash", marker, 1.3)
            peers += 1
        else:
            scheme, fmt = split_name(kernel)
            dash, marker, width = _SCHEMES["fused" if kernel == BASELINE else scheme]
            found[kernel] = Style(role_of(kernel), dash, marker, width)
    return found

"""Every peer by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from kernels.peers import bnb, gemlite, gptqmodel, native, torchao
from kernels.peers.peer import Peer

PEERS: dict[str, Peer] = {
    peer.name: peer for family in (native, bnb, gemlite, torchao, gptqmodel) for peer in family.PEERS
}
"""Every peer by its name in a sweep, those that are not installed here too."""


def find_peers(names: Sequence[str], known: Mapping[str, Peer] | None = None) -> tuple[Peer, ...]:
    """Look peers up by name.

    Args:
        names: their names in a sweep or in a chain; none for all of them.
        known: the registry; None for ``PEERS``.

    Raises:
        ValueError: unknown name; the sentence suggests the closest known one and lists all.
    """
    peers = PEERS if known is None else known
    by_any_name = {peer.kernel_name: peer for peer in peers.values()} | dict(peers)
    for name in names:
        if name not in by_any_name:
            close = difflib.get_close_matches(name, by_any_name, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ValueError(f"unknown peer {name!r}; {hint}known peers: {', '.join(peers)}")
    return tuple(by_any_name[name] for name in names) if names else tuple(peers.values())

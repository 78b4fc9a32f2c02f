"""What the two ends of a connection compare before they carry messages."""

from __future__ import annotations

from collections.abc import Mapping

from shared.dataplane.layout import PROTOCOL_VERSION, Layout


def greeting(layout: Layout) -> dict[str, object]:
    """What the attention end says of itself."""
    return {
        "version": PROTOCOL_VERSION,
        "dims": layout.dims_hash,
        "layout": layout.describe(),
    }


def refusal(hello: Mapping[str, object], layout: Layout) -> str | None:
    """Why the FFN end, which has `layout`, does not take a greeting; None if it does."""
    if hello.get("version") != PROTOCOL_VERSION:
        return f"protocol version {hello.get('version')!r}: this FFN speaks {PROTOCOL_VERSION}"
    if hello.get("dims") != layout.dims_hash:
        return f"dimensions {hello.get('layout')}: this FFN has {layout.describe()}"
    return None

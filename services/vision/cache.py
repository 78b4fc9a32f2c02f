"""Features of images seen lately: a conversation sends its pictures again with every turn."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from services.vision.encoder import Features


class FeatureCache:
    """Least recently used features by the image's content, at most `max_bytes` of them."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[bytes, Features] = OrderedDict()
        self.nbytes = 0

    @staticmethod
    def key(image: bytes) -> bytes:
        return hashlib.sha256(image).digest()

    def get(self, key: bytes) -> Features | None:
        features = self._entries.get(key)
        if features is not None:
            self._entries.move_to_end(key)
        return features

    def put(self, key: bytes, features: Features) -> None:
        """Keep `features`; what alone is larger than the whole cache is not kept."""
        if key in self._entries or features.nbytes > self._max_bytes:
            return
        self._entries[key] = features
        self.nbytes += features.nbytes
        while self.nbytes > self._max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self.nbytes -= oldest.nbytes

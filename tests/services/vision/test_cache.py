from __future__ import annotations

import torch

from services.vision.cache import FeatureCache
from services.vision.encoder import Features


def features(floats: int) -> Features:
    return Features(torch.zeros(floats, 1), torch.zeros(0, 1, 1), ())


def test_least_recently_used_is_dropped_first():
    cache = FeatureCache(max_bytes=12)
    one = features(1)
    cache.put(b"a", one)
    cache.put(b"b", features(1))
    cache.put(b"c", features(1))
    assert cache.get(b"a") is one
    cache.put(b"d", features(1))
    assert cache.get(b"b") is None
    assert cache.get(b"a") is one
    assert cache.nbytes == 12


def test_what_is_larger_than_the_cache_is_not_kept():
    cache = FeatureCache(max_bytes=12)
    cache.put(b"a", features(1))
    cache.put(b"b", features(4))
    assert cache.get(b"b") is None
    assert cache.get(b"a") is not None


def test_nothing_is_counted_twice():
    cache = FeatureCache(max_bytes=12)
    cache.put(b"a", features(1))
    cache.put(b"a", features(1))
    assert cache.nbytes == 4

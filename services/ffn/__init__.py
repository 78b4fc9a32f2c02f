"""An FFN shard: the experts and dense layers that attention instances send tokens to."""

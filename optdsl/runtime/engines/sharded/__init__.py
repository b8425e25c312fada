"""Tensors of which each rank has a shard: steps on the shards, or on whole tensors dealt out."""

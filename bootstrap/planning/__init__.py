"""Pure planning: which slots a shard owns and which place each node of the cluster takes."""

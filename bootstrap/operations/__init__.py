"""What can be done with a cluster, as free functions over a `Deployment`."""

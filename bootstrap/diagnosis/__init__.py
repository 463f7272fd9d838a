"""Gathers what is known about a cluster: the verdicts are `bootstrap.judging.causes`."""

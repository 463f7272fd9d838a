"""Talks to servers: the client, the fast window, the reconcile loop and the proof."""

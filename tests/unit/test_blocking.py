"""The blocking API is the asynchronous one, waited for."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

import bootstrap
from bootstrap import blocking, handle


def parameters(function: Callable[..., Any]) -> list[tuple[str, Any, Any, Any]]:
    return [(p.name, p.kind, p.default, p.annotation) for p in inspect.signature(function).parameters.values()]


def results(function: Callable[..., Any]) -> str:
    text = str(inspect.signature(function).return_annotation)
    return text.replace("AsyncIterator", "Iterator")


PUBLIC = [name for name in vars(handle.Cluster) if not name.startswith("_")]
# Which client is made is the one difference.
METHODS = [name for name in PUBLIC if name != "client"]
FUNCTIONS = [name for name in blocking.__all__ if name != "Cluster"]


def test_nothing_is_missing() -> None:
    public = [
        name
        for name in bootstrap.__all__
        if inspect.isfunction(found := getattr(bootstrap, name)) and found.__module__ == handle.__name__
    ]
    assert sorted(public) == sorted(FUNCTIONS)
    assert {name for name in vars(blocking.Cluster) if not name.startswith("_")} == {*PUBLIC, "async_client"}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_have_the_same_signature(name: str) -> None:
    ours, theirs = getattr(blocking, name), getattr(handle, name)
    assert parameters(ours) == parameters(theirs)
    assert results(ours) == results(theirs)


@pytest.mark.parametrize("name", METHODS)
def test_methods_have_the_same_signature(name: str) -> None:
    ours, theirs = getattr(blocking.Cluster, name), getattr(handle.Cluster, name)
    assert parameters(ours) == parameters(theirs)
    assert results(ours) == results(theirs)
    assert not inspect.iscoroutinefunction(ours)


def test_clients_have_the_same_signature() -> None:
    assert parameters(blocking.Cluster.client) == parameters(handle.Cluster.client)
    assert parameters(blocking.Cluster.async_client) == parameters(handle.Cluster.client)

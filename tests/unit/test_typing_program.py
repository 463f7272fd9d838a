"""The programs that type checkers read leave nothing public out."""

from __future__ import annotations

import ast
from pathlib import Path

import bootstrap
import pytest_valkey_bootstrap
from bootstrap import blocking

PROGRAMS = Path(__file__).parents[1] / "typing"


def names_in(program: str) -> set[str]:
    nodes = ast.walk(ast.parse((PROGRAMS / program).read_text()))
    named = {ast.Attribute: "attr", ast.Name: "id", ast.arg: "arg", ast.FunctionDef: "name"}
    return {getattr(node, named[type(node)]) for node in nodes if type(node) in named}


def test_the_api() -> None:
    methods = [name for name in dir(blocking.Cluster) if not name.startswith("_")]
    assert {*bootstrap.__all__, *blocking.__all__, *methods} - names_in("api.py") == set()


def test_the_plugin() -> None:
    fixtures = [name for name in vars(pytest_valkey_bootstrap) if name.startswith("valkey_")]
    assert len(fixtures) == 6
    assert set(fixtures) - names_in("plugin.py") == set()

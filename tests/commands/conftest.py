"""Pairs of pictures in folders."""

from tests.pairs import folders, truths

__all__ = ["folders", "truths"]

"""The second stage's picture alone: an RRDBNet's reference has no share in the result. The paper has no such row."""

from dataclasses import replace


def change(cascade):
    return replace(cascade, rrdbnet_weight=0.0)

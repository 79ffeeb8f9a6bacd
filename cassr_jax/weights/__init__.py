"""Weights in every published layout, read and written."""

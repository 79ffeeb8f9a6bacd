"""Fidelity and perceptual measures, and tables of them."""

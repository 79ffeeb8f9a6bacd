"""A network that NumPy, torch and JAX compute alike: smooth, nonlinear, mixing channels and depending on time."""

from typing import Any


def fake_output(x: Any, t: Any, numerics: Any) -> Any:
    """x (B, h, w, C), t () -> (B, h, w, C); `numerics` is numpy, torch or jax.numpy."""
    time = numerics.sin(t / 150)
    return numerics.tanh(0.7 * x + 0.3 * time) + 0.2 * numerics.cos(x.mean(-1)[..., None] - time)

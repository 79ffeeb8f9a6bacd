"""CasSR in JAX/Flax: cascaded real-world image super-resolution with Stable Diffusion."""

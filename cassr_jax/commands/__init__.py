"""Programs to be run as `python -m cassr_jax.commands.NAME`."""

"""Programs that are run as `python -m cassr_jax.commands.NAME`, and what their command lines share."""

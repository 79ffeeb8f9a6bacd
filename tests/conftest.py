"""Eight simulated devices for every test, and quick compilation; set before JAX starts."""

import os

FLAGS = (
    "--xla_force_host_platform_device_count=8",
    # Nearly all of the suite's time is compiling networks that run once: without optimisation it takes half as long.
    "--xla_backend_optimization_level=0",
)
os.environ["XLA_FLAGS"] = " ".join([*FLAGS, os.environ.get("XLA_FLAGS", "")])
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

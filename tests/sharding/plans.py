"""An example of a plan."""

from dataclasses import replace

from cassr_jax.sharding.account import Account, Traffic
from cassr_jax.sharding.planned import Plan
from cassr_jax.sharding.times import Times


def example(**changes) -> Plan:
    rows = (
        Traffic("all-gather", ("fsdp",), "/x/cassr_jax/training/step.py:77", 12, 3 * 2**30, 0.3, 0.1, True),
        Traffic("all-to-all", None, "", 2, 2**20, 0.001, 0.0, False),
    )
    held = {"trained parameters": 2**30, "optimizer": 2 * 2**30}
    account = Account(
        {"data": 1, "fsdp": 8, "spatial": 1, "tensor": 1}, held, 4 * 2**30, 8 * 2**30, 16e9, 3e12, 5e11, rows,
        Times(0.5, 0.6, 0.7, 0.301, 0.1),
    )  # fmt: skip
    return Plan("v5e:2x4", "fsdp", "cassr", 32, 1000, 2e12, 2**20, replace(account, **changes))

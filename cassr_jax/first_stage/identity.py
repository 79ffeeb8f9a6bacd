"""No first stage: the LQ image is its own reference (the first row of the paper's Table 2)."""

from cassr_jax.first_stage.interface import Engine, FirstStage, Pictures


def _reference(engine: Engine, lr: Pictures, lq: Pictures) -> Pictures:
    del engine, lr
    return lq


FIRST_STAGE = FirstStage("identity", _reference, batch_name="lq")

"""A published super-resolution network as the first stage: Real-ESRGAN (arXiv 2107.10833), BSRGAN or a descendant.

The paper allows this to save the training of a first stage. The published programs have no colour fix.
"""

from cassr_jax.first_stage.interface import Engine, FirstStage, Pictures


def _reference(engine: Engine, lr: Pictures, lq: Pictures) -> Pictures:
    return engine.enlarge("rrdbnet", lr, lq)


FIRST_STAGE = FirstStage("rrdbnet", _reference, networks=("rrdbnet",), holder="tiny")

"""A published super-resolution network as the first stage: Real-ESRGAN (arXiv 2107.10833), BSRGAN or an heir of them.

The paper allows it, to save the training of a first stage. Its published programs fix no colours.
"""

from cassr_jax.first_stage.interface import Engine, FirstStage, Pictures


def _reference(engine: Engine, lr: Pictures, lq: Pictures) -> Pictures:
    return engine.enlarge("rrdbnet", lr, lq)


FIRST_STAGE = FirstStage("rrdbnet", _reference, networks=("rrdbnet",))

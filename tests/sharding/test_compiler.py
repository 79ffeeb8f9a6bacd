from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from cassr_jax.errors import InputError
from cassr_jax.sharding.compiler import compiled


def refusing(message: str) -> Any:
    def compile_() -> None:
        raise jax.errors.JaxRuntimeError(message)

    return SimpleNamespace(compile=compile_)


def test_a_program_that_fits_comes_with_its_text_and_its_memory():
    lowered = jax.jit(lambda x: x + 1).lower(jnp.zeros(4))
    program, text, memory = compiled(lowered, "a sum", "nothing")
    assert program(jnp.ones(4)).tolist() == [2, 2, 2, 2]
    assert "add" in text
    assert memory.argument_size_in_bytes == 16


def test_a_program_that_does_not_fit_is_refused_in_one_sentence():
    reason = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (33.54G) exceeds "
        "available HBM (15.75G)."
    )
    with pytest.raises(InputError) as caught:
        compiled(refusing(reason), "v5e:2x4: result, decode,", "a smaller tile")
    assert str(caught.value) == f"v5e:2x4: result, decode, does not fit, expected a smaller tile ({reason})"


def test_other_errors_of_a_compiler_are_not_taken_for_want_of_memory():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        compiled(refusing("INTERNAL: a fault"), "a program", "nothing")


@pytest.mark.parametrize("missing", ["as_text", "memory_analysis"])
def test_a_program_without_an_account_is_refused(missing: str):
    answers = {"as_text": "text", "memory_analysis": object()} | {missing: None}
    program = SimpleNamespace(**{name: (lambda answer=answer: answer) for name, answer in answers.items()})
    lowered: Any = SimpleNamespace(compile=lambda: program)
    with pytest.raises(InputError, match="cpu:1: the step: the compiler gives no account of its program"):
        compiled(lowered, "cpu:1: the step", "nothing")

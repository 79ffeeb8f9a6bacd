"""Programs are kept between runs: a second start traces nothing and gives the same pixels."""

import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import cassr_jax
from cassr_jax.cascade import CasSR
from cassr_jax.compiled import PROGRAMS
from cassr_jax.config import SamplingConfig
from cassr_jax.engine import kept
from cassr_jax.engine.seating import mesh_of_tiles
from cassr_jax.models import dot_product
from cassr_jax.sampling import Fresh, fresh_noise
from tests import children
from tests.random_cascade import write_random_cascade

OPTIONS = {"control_every": 2}  # among the programs is one that uses none of its arguments
MESH, WHOLE, ZERO = mesh_of_tiles(1), kept.Call([None]), np.int32(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sampling = SamplingConfig(num_steps=2, negative_prompt="")
    return write_random_cascade(tmp_path_factory.mktemp("cascade"), sampling=sampling)


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("programs")


def started(folder: Path, programs: Path, monkeypatch: pytest.MonkeyPatch, devices: int) -> CasSR:
    """A cascade as after a new start, which keeps its programs in that folder."""
    monkeypatch.setenv(PROGRAMS, str(programs))
    return cassr_jax.load(folder, devices=devices)


@pytest.fixture(scope="module")
def first(folder: Path, programs: Path, picture: np.ndarray) -> np.ndarray:
    with pytest.MonkeyPatch.context() as monkeypatch:
        return started(folder, programs, monkeypatch, 2).restore(picture, **OPTIONS).result


class AtOnce:
    """A thread whose work is done when it is started."""

    def __init__(self, target, args, daemon):
        self.start = partial(target, *args)


class Never:
    """A thread that does not come to its work."""

    def __init__(self, target, args, daemon):
        self.start = lambda: None


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("a function was traced")


def test_a_second_start_traces_nothing(folder, programs, picture, first, monkeypatch):
    monkeypatch.setattr(export, "export", refuse)
    again = started(folder, programs, monkeypatch, 2)
    np.testing.assert_array_equal(again.restore(picture, **OPTIONS).result, first)
    assert sum(again._engine.programs.count().values()) == len(list(programs.iterdir()))


@pytest.mark.slow
def test_what_is_kept_is_what_runs_without(folder, picture, first, monkeypatch):
    monkeypatch.setenv(PROGRAMS, "")
    plain = cassr_jax.load(folder, devices=2).restore(picture, **OPTIONS).result
    assert np.abs(plain.astype(int) - first).max() <= 1  # XLA may fuse the two differently


@pytest.mark.slow
def test_one_device_keeps_programs_too(folder, picture, tmp_path, monkeypatch):
    """There an array may say of its place something else in another run."""
    first, again = (started(folder, tmp_path, monkeypatch, 1).restore(picture, **OPTIONS).result for _ in range(2))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-1],
        lambda text: text[:-9] + bytes([text[-9] ^ 1]) + text[-8:],
        lambda text: b"{}" + text[text.index(b"\n") :],
        lambda text: b"",
        lambda text: b"[]" + text[text.index(b"\n") :],
    ],
    ids=["cut short", "a bit", "another program's", "empty", "a list"],
)
@pytest.mark.parametrize("ahead", [False, True], ids=["when it is needed", "ahead"])
def test_a_damaged_entry_is_made_anew(monkeypatch, tmp_path, capsys, damage, ahead):
    store = kept.Store(tmp_path, "context", MESH)
    function = jax.jit(lambda x: x + 1)
    one = store.wrapped(("a name",), function, WHOLE)
    np.testing.assert_array_equal(one(np.float32([1])), [2])
    (path,) = tmp_path.iterdir()
    sound = path.read_bytes()
    path.write_bytes(damage(sound))
    if ahead:
        monkeypatch.setattr(kept, "Thread", AtOnce)
        store = kept.Store(tmp_path, "context", MESH)
        store.wrapped(("another name",), function, WHOLE)(ZERO)
        assert "so the function is traced again" in capsys.readouterr().err
    two = store.wrapped(("a name",), function, WHOLE)
    np.testing.assert_array_equal(two(np.float32([1])), [2])
    assert capsys.readouterr().err.count("so the function is traced again") == (not ahead)
    assert path.read_bytes() == sound
    monkeypatch.setattr(export, "export", refuse)
    np.testing.assert_array_equal(store.wrapped(("a name",), function, WHOLE)(np.float32([1])), [2])


def test_programs_differ_by_key_context_shapes_and_types(tmp_path):
    for context in ("one", "two"):
        store = kept.Store(tmp_path, context, MESH)
        for key in (("a",), ("a", 1), ("a", partial(int, base=3)), ("a", int)):
            function = store.wrapped(key, jax.jit(lambda x: x), WHOLE)
            for value in (np.float32([1]), np.float32([1, 2]), np.int32([1])):
                np.testing.assert_array_equal(function(value), value)
    assert len(list(tmp_path.iterdir())) == 2 * 4 * 3


def test_random_keys_come_back_as_such(tmp_path, monkeypatch):
    fresh = Fresh(jax.random.split(jax.random.key(0), 2), *np.zeros((2, 2), np.int32))
    arguments = (fresh, ZERO, jnp.zeros((2, 3, 3, 4)))
    call = kept.Call([None] * 3)
    expected = kept.Store(tmp_path, "", MESH).wrapped(("fresh",), jax.jit(fresh_noise), call)(*arguments)
    monkeypatch.setattr(export, "export", refuse)
    again = kept.Store(tmp_path, "", MESH).wrapped(("fresh",), jax.jit(fresh_noise), call)(*arguments)
    np.testing.assert_array_equal(again, expected)


def test_a_function_without_a_lasting_name_is_not_kept(tmp_path):
    function = jax.jit(lambda x: x)
    for nameless in (lambda x: x, partial(lambda x: x, 1), object(), ("a", object())):
        assert kept.Store(tmp_path, "context", MESH).wrapped(("a", nameless), function, WHOLE) is function


def test_a_folder_that_cannot_be_written_costs_nothing(tmp_path):
    (tmp_path / "file").touch()
    store = kept.Store(tmp_path / "file", "context", MESH)
    np.testing.assert_array_equal(store.wrapped(("a",), jax.jit(lambda x: x + 1), WHOLE)(np.float32([1])), [2])


def test_the_oldest_programs_make_room(tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "MOST", 3)
    store = kept.Store(tmp_path, "context", MESH)
    for number in range(5):
        store.wrapped(("a", number), jax.jit(lambda x: x), WHOLE)(np.float32([1]))
    assert len(list(tmp_path.iterdir())) == 3


def test_a_file_in_place_of_a_folder_is_named_once(folder, picture, first, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    result = started(folder, tmp_path / "file" / "programs", monkeypatch, 2).restore(picture, **OPTIONS).result
    np.testing.assert_allclose(result.astype(int), first, atol=1)
    expected = f"programs: {tmp_path / 'file'}: a file, expected a folder; no programs are kept\n"
    assert capsys.readouterr().err == expected


def test_a_program_with_cudnn_s_attention_can_be_kept(monkeypatch):
    """It is exported for NVIDIA GPUs on a machine that has none, as if this had cuDNN 9.10."""
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91000)
    dot_product._cudnn_takes.cache_clear()
    tokens = jax.ShapeDtypeStruct((1, 4096, 80), jnp.bfloat16)
    function = jax.jit(partial(dot_product.dot_product_attention, num_heads=2))
    stored = kept.exported(function, ["cuda"])(tokens, tokens, tokens).serialize()
    dot_product._cudnn_takes.cache_clear()
    assert "__cudnn$fmhaSoftmax" in export.deserialize(stored).mlir_module()


@pytest.fixture
def used(tmp_path) -> list[kept.Kept]:
    """Three functions that a run has used."""
    store = kept.Store(tmp_path, "context", MESH)
    functions = [
        store.wrapped((number,), jax.jit(partial(jax.lax.add, np.int32(number))), WHOLE) for number in range(3)
    ]
    for number, function in enumerate(functions):
        assert function(ZERO) == number
    return functions


def again(functions: list[kept.Kept], store: kept.Store) -> list[kept.Kept]:
    return [kept.Kept(store, function._key, function._function, function._call) for function in functions]


def test_what_was_used_last_is_read_ahead_in_the_same_order(tmp_path, monkeypatch, used):
    kept.Store(tmp_path, "another", MESH).wrapped((3,), jax.jit(lambda x: x), WHOLE)(ZERO)
    again(used, kept.Store(tmp_path, "context", MESH))[0](ZERO)  # now the second is the oldest
    monkeypatch.setattr(kept, "_AHEAD", 2)
    monkeypatch.setattr(kept, "Thread", AtOnce)
    monkeypatch.setattr(export, "export", refuse)
    store, read = kept.Store(tmp_path, "context", MESH), []
    compiled = store._compiled
    monkeypatch.setattr(store, "_compiled", lambda *given: read.append(compiled(*given)) or read[-1])
    functions = again(used, store)
    assert functions[1](ZERO) == 1
    assert [program(ZERO) for program in read] == [2, 0, 1]
    assert [function(ZERO) for function in functions] == [0, 1, 2]
    assert len(read) == 3, "what was read ahead is not read again"


def test_nobody_waits_for_what_is_not_yet_read_ahead(tmp_path, monkeypatch, used):
    monkeypatch.setattr(kept, "Thread", Never)
    assert [function(ZERO) for function in again(used, kept.Store(tmp_path, "context", MESH))] == [0, 1, 2]


def test_a_failure_in_the_background_reaches_whoever_needs_the_program(tmp_path, monkeypatch, used):
    store, read = kept.Store(tmp_path, "context", MESH), []
    own = store._read

    def failing(path):
        read.append(path)
        if len(read) == 1:
            raise ZeroDivisionError
        return own(path)

    monkeypatch.setattr(store, "_read", failing)
    monkeypatch.setattr(kept, "Thread", AtOnce)
    functions = again(used, store)
    assert functions[2](ZERO) == 2, "which reads the other two in the background"
    with pytest.raises(ZeroDivisionError):
        functions[0](ZERO)
    assert functions[1](ZERO) == 1


def test_the_end_of_a_process_waits_for_no_long_compilation(tmp_path):
    """What is read in the background stands still here, while the main thread ends."""
    code = """
import threading, time
from cassr_jax.engine import kept
kept._PATIENCE = 0.1
kept._reading.add(thread := threading.Thread(target=time.sleep, args=(60,), daemon=True))
thread.start()
"""
    began = time.monotonic()
    process = children.start(code)
    assert process.communicate(timeout=50) == ("", "")
    assert process.returncode == 0
    assert time.monotonic() - began < 50

"""The one table of ranges: it names fields that exist, and refuses with words that help."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cassr_jax.config import (
    CascadeConfig,
    FirstStageConfig,
    LossConfig,
    OptimizerConfig,
    SamplingConfig,
    TrainConfig,
    ValidationConfig,
)
from cassr_jax.data.config import DataConfig
from cassr_jax.errors import InputError
from cassr_jax.options import Options
from cassr_jax.ranges import RANGES, Range, check

CLASSES = {
    cls.__name__: cls
    for cls in (
        Options,
        SamplingConfig,
        FirstStageConfig,
        CascadeConfig,
        OptimizerConfig,
        LossConfig,
        DataConfig,
        TrainConfig,
        ValidationConfig,
    )
}


@pytest.mark.parametrize("name", RANGES)
def test_every_range_belongs_to_a_field(name):
    assert RANGES[name].keys() <= {field.name for field in dataclasses.fields(CLASSES[name])}


@pytest.mark.parametrize("name", CLASSES)
def test_every_number_has_a_range(name):
    numbers = {
        field.name
        for field in dataclasses.fields(CLASSES[name])
        if {part.strip() for part in str(getattr(field.type, "__name__", field.type)).split("|")} & {"int", "float"}
    }
    assert numbers <= RANGES[name].keys()


@pytest.mark.parametrize(
    ("allowed", "value", "expected"),
    [
        (Range(1, whole=True), 1.5, "a whole number of at least 1"),
        (Range(1, whole=True), True, "a whole number of at least 1"),
        (Range(0, 1, above=True), 0, "a number above 0 and at most 1"),
        (Range(0, 1, below=True), 1, "a number of at least 0 and below 1"),
        (Range(0, above=True), math.nan, "a number above 0"),
        (Range(0, above=True), math.inf, "a number above 0"),
        (Range(0, 1), "0.5", "a number of at least 0 and at most 1"),
        (Range(1, whole=True), None, "a whole number of at least 1"),
        (Range(1, whole=True, optional=True), 0, "a whole number of at least 1, or None"),
        (Range(1, whole=True), 2**31, "a whole number of at least 1 and at most 2147483647"),
        (Range(1, whole=True), 10**400, "a whole number of at least 1 and at most 2147483647"),
        (Range(0, 5, whole=True), 10**400, "a whole number of at least 0 and at most 5"),
        (Range(0, above=True), 10**400, "a number above 0"),
        (Range(), -(10**400), "a number"),
    ],
)
def test_refused_with_what_was_found_and_expected(allowed, value, expected):
    with pytest.raises(InputError) as error:
        allowed.check("field", value)
    assert str(error.value) == f"field is {value!r}, expected {expected}"


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int8, np.uint64, int, float])
def test_numbers_of_any_type_are_compared_with_any_bound(kind):
    for allowed in (Range(0, above=True), Range(), Range(0, 1e300)):
        assert allowed.holds(kind(2))


@given(st.integers(-5, 5), st.integers(-5, 5), st.integers(-5, 5), st.booleans(), st.booleans())
def test_bounds_are_those_of_comparison(value, least, most, above, below):
    allowed = Range(least, most, above=above, below=below, whole=True)
    expected = (value > least if above else value >= least) and (value < most if below else value <= most)
    assert allowed.holds(value) == allowed.holds(np.int64(value)) == expected


def test_a_nested_field_is_named_by_its_path():
    config = CascadeConfig(sampling=SamplingConfig(num_steps=0))
    with pytest.raises(InputError, match=r"^sampling\.num_steps is 0, expected a whole number of at least 1"):
        check(config)
    check(CascadeConfig())


def test_a_field_within_a_mapping_is_named_by_its_path():
    config = CascadeConfig(first_stages={"rrdbnet": FirstStageConfig(reference_weight=2)})
    with pytest.raises(InputError, match=r"^first_stages\.rrdbnet\.reference_weight is 2, expected a number"):
        check(config)


def test_none_is_allowed_only_where_it_means_something():
    assert Range(1, optional=True).holds(None)
    assert not Range(1).holds(None)


@pytest.mark.parametrize("text", ["2", "2.5", "x", "", "nan", "9" * 400])
def test_text_is_parsed_as_the_range_says(text):
    if text == "2":
        assert Range(1, whole=True).parse(text) == 2
    else:
        with pytest.raises(ValueError, match="expected a whole number of at least 1"):
            Range(1, whole=True).parse(text)

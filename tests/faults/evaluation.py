"""Faults in comparisons, ablations and prompts."""

from tests.faults.fault import faults

RESUMING = "tests/evaluation/test_resuming.py::"

EVALUATION = [
    *faults(
        "cassr_jax/evaluation/frechet.py",
        ("tests/evaluation/test_frechet.py",),
        ("(folder / key).resolve()", "(folder / key).absolute()"),
        ("if file not in known]", "]"),
    ),
    *faults(
        "cassr_jax/evaluation/comparison.py",
        (RESUMING + "test_values_that_are_no_numbers_come_back_as_they_were",),
        ("return None if math.isnan(value) else str(value)", "return None"),
    ),
    *faults(
        "cassr_jax/evaluation/comparison.py",
        (RESUMING + "test_a_file_that_is_gone_costs_only_its_picture",),
        ("return measured is not None and measured.files == _files_hash(case)", "return measured is not None"),
    ),
    *faults(
        "cassr_jax/commands/ablate.py",
        ("tests/commands/test_ablate.py::test_a_variant_changes_what_the_options_say",),
        ("with_options(config, own)", "with_options(config, chosen)"),
        ("return config if variant.change is None else variant.change(config)", "return config"),
    ),
    *faults(
        "cassr_jax/commands/prompts.py",
        ("tests/commands/test_prompts.py",),
        ("prompts.keys() - {*names, *others}", "prompts.keys() - prompts.keys()"),
        ("set(names) - prompts.keys()", "prompts.keys() - set(names)"),
        ("return objects[-1]", "return objects[0]"),
        ('text.split("\\n")', "text.splitlines()"),
        ("name if name in names else spelled", "spelled"),
    ),
    *faults(
        "cassr_jax/options.py",
        ("tests/test_cascade.py::test_a_call_may_have_a_prompt_of_its_own",),
        ('"prompt": self.prompt,', '"prompt": None,'),
    ),
]

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
        ("            and measured.files == _files_hash(case)\n", ""),
    ),
    *faults(
        "cassr_jax/evaluation/comparison.py",
        ("tests/evaluation/test_comparison.py::test_pictures_that_were_deleted_are_made_anew",),
        ("is_file(result_file(folder, case, program))", "result_file(folder, case, program)"),
    ),
    *faults(
        "cassr_jax/evaluation/comparison.py",
        ("tests/evaluation/test_comparison.py::test_a_picture_at_which_the_program_fails_is_left_out_and_tried_again",),
        ("_reason(case, error), traceback=", "_reason(case, error), files=files, traceback="),
        ("    if ran_out(error):\n", "    if isinstance(error, MemoryError):\n"),
    ),
    *faults(
        "cassr_jax/evaluation/cascades.py",
        (RESUMING + "test_pictures_are_restored_together_as_long_as_their_options_are_the_same",),
        ("lambda each: (each.seed, each.scale, each.prompt)", "lambda each: (each.seed, each.scale, None)"),
        ("yield from (error for _ in together)", "yield error"),
    ),
    *faults(
        "cassr_jax/evaluation/cascades.py",
        (
            "tests/evaluation/test_comparison.py::test_a_sceptic_s_row_that_does_not_fit_into_memory_costs_only_its_picture",
        ),
        (
            "        except Exception as error:\n            yield error",
            "        except InputError as error:\n            yield error",
        ),
    ),
    *faults(
        "cassr_jax/evaluation/comparison.py",
        (RESUMING + "test_pictures_are_restored_together_as_long_as_their_options_are_the_same",),
        ("        yield from unread()\n        read =", "        read ="),
        ("    yield from unread()\n\n", "\n"),
    ),
    *faults(
        "cassr_jax/evaluation/__main__.py",
        ("tests/evaluation/test_comparison.py::test_what_names_no_program_is_known_before_any_work",),
        ("if names.count(name) > 1]", "if names.count(name) > 2]"),
        ("    _check_baseline(arguments.against, _programs(arguments))\n", ""),
        ("(baselines.names(arguments.sigma) if arguments.baselines else ())", "()"),
    ),
    *faults(
        "cassr_jax/commands/ablate.py",
        ("tests/commands/test_ablate.py::test_a_measure_that_is_installed_in_between_is_refused",),
        ('        "missing": sorted(measures.missing),\n', ""),
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
        "cassr_jax/files.py",
        ("tests/evaluation/test_comparison.py::test_a_report_within_the_pictures_is_refused",),
        ('found = "is" if same_place(folder, other) else', 'found = "is" if folder == other else'),
    ),
    *faults(
        "cassr_jax/options.py",
        ("tests/test_cascade.py::test_a_call_may_have_a_prompt_of_its_own",),
        ('"prompt": self.prompt,', '"prompt": None,'),
    ),
]

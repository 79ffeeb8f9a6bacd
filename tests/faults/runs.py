"""Faults in how a run is taken up, whose folder it is, and what its processes agree on."""

from tests.faults.fault import faults

CHECKPOINTS = ("tests/training/test_checkpoint.py",)
RESUME = ("tests/training/test_resume.py",)
CHECKSUMS = ("tests/training/test_checksums.py",)
CONTENTS = ("tests/data/test_contents.py",)

RUNS = [
    *faults(
        "cassr_jax/training/checksums.py",
        CHECKSUMS,
        (" if shard.replica_id == 0)", ")"),
        ("total[name] % 2**64", "total[name]"),
    ),
    *faults(
        "cassr_jax/training/checkpoint.py",
        CHECKPOINTS,
        ("sorted(self.manager.all_steps(), reverse=True)", "sorted(self.manager.all_steps())"),
        ("for step in steps if from_step is None else [from_step]:", "for step in steps:"),
        ("        self._check_shapes(step, shapes, _shapes(target))\n", ""),
        ("        accept(self.name(step), run)\n", ""),
        ("if saved and saved.get(name) != checksum:", "if name not in saved and saved:"),
        ('{"data": json_checksum(data), "run": json_checksum(run)}', "{}"),
        ("_check_checksums(array_checksums(state), saved)", "_check_checksums({}, saved)"),
        ("        error = error.__cause__\n", "        break\n"),
        (
            "for found in self.manager.all_steps() if found > step)",
            "for found in self.manager.all_steps() if found >= step)",
        ),
        ('_is_damaged_json(path / "metrics" / "metrics")', '_is_damaged_json(path / "metrics")'),
        ("        _set_aside([Path(self.manager.directory)", "        list([Path(self.manager.directory)"),
        ("next(name for name in names if name not in taken)", "path.name"),
        ("    quieten_readers()\n", ""),
    ),
    *faults(
        "cassr_jax/training/resume.py",
        RESUME,
        ('STREAM = ("seed", "activation", *', 'STREAM = ("seed", *'),
        ("if f.name not in SPEED), CONTENTS)", "if f.name not in SPEED))"),
        ("for f in fields(DataConfig) if f.name not in SPEED)", "for f in fields(DataConfig))"),
        ('f"{self.field}.".startswith(f"{name}.")', "self.field == name"),
        ("change.permission not in (None, *allowed)", "change.permission not in (None, 'seed', *allowed)"),
        ('for name in ("stage", "new"):', 'for name in ("new",):'),
        ('(found or {}).get("sha256") != (expected or {}).get("sha256")', "bool(found) != bool(expected)"),
        ("sorted(trained_on.keys() | given)", "sorted(trained_on)"),
        ('file.open("a", ', 'file.open("w", '),
    ),
    *faults(
        "cassr_jax/training/loop.py",
        ("tests/training/test_refusals.py::test_a_change_of_what_the_run_meets_is_refused_unless_it_is_allowed",),
        ("        check_stream(checkpoints.name(saved.step), changes, allow_changes)\n", ""),
        ("                log_changes(workdir / CHANGES_FILE, start, changes)\n", ""),
        ("checkpoints.run = run.account |", "_ = run.account |"),
    ),
    *faults(
        "cassr_jax/training/loop.py",
        ("tests/training/test_loop.py::test_whatever_happens_the_data_are_closed",),
        (
            "with closing(open_data(run.config, sets)) as stream:",
            "for stream in [open_data(run.config, sets)]:",
        ),
    ),
    *faults(
        "cassr_jax/training/loop.py",
        ("tests/training/test_refusals.py",),
        ('    check_agreement({CONTENTS: contents}, "give all processes the same data")\n', ""),
        ('    check_agreement({"frozen": account["frozen"]}, "give all processes the same weights")\n', ""),
        ("            check_folder(written)\n", "            pass\n"),
    ),
    *faults(
        "cassr_jax/training/export.py",
        ("tests/training/test_export.py",),
        ("    withdraw(folder, TRAINED_FILE, *[CASCADE_FILE] * stage.completes)\n", ""),
        ("*[CASCADE_FILE] * stage.completes)", "CASCADE_FILE)"),
    ),
    *faults(
        "cassr_jax/commands/bundle.py",
        ("tests/commands/test_bundle.py",),
        ("        withdraw(output, CASCADE_FILE)\n", ""),
        ("            components[kind] = _copied(kind, source, output)\n", "            components[kind] = source\n"),
        ("return kind if is_folder(source) else", "return kind if files else"),
    ),
    *faults(
        "cassr_jax/weights/rrdbnet.py",
        ("tests/commands/test_bundle.py",),
        ('[path, path.with_suffix(".bin")] if', "[path] if"),
    ),
    *faults(
        "cassr_jax/data/contents.py",
        CONTENTS,
        ("            file.seek(max(size - _PART, 0))\n", ""),
        ("{path.relative_to(folder).as_posix()}", "{path}"),
        ("{path.relative_to(folder).as_posix()}", ""),
        (" or SUFFIX in path.name", ""),
        ('return f"{size} {digest.hexdigest()}"', 'return f"{size}"'),
    ),
    *faults(
        "cassr_jax/training/monitor.py",
        ("tests/training/test_loop.py::test_what_is_left_of_the_steps_to_trace_is_traced",),
        ("range(max(asked[0], left.start), min", "range(asked[0], min"),
        ("min(asked[1], left.stop))", "asked[1])"),
        ("if found != range(*asked):", "if not found:"),
    ),
    *faults(
        "cassr_jax/training/setup.py",
        ("tests/training/test_refusals.py::test_prepared_latents_take_a_vae_where_pictures_are_shown_or_judged",),
        ('            ("preview_every", config.preview_every),\n', ""),
        ('            ("loss.image_weight", config.loss.image_weight),\n', ""),
    ),
    *faults(
        "cassr_jax/training/setup.py",
        ("tests/training/test_refusals.py::test_what_cannot_be_trained_is_refused",),
        ("if kind in config.new]:", "if kind not in {**config.components, **config.new}]:"),
    ),
    *faults(
        "cassr_jax/training/references.py",
        ("tests/commands/test_references.py::test_other_weights_and_pictures_under_the_same_paths_are_refused",),
        ('        "networks": sources,\n', ""),
        ('    data["contents"] = fingerprint_sets(config.data.weights())\n', ""),
        (' and not name.endswith(".source")', ""),
    ),
    *faults(
        "cassr_jax/training/processes.py",
        ("tests/training/test_processes.py",),
        ("enumerate(others, 1)", "enumerate(others)"),
        ("for text in gather_texts(refused) if text]", "for text in [refused] if text]"),
        ("        refused = str(error)\n", '        refused = ""\n'),
        ("for name in {**expected, **found}:", "for name in [*expected][:1]:"),
        ("found |= inner or {prefix + name: value}", "found |= inner"),
    ),
    *faults(
        "cassr_jax/locks.py",
        ("tests/test_locks.py",),
        ("if not _agree(self.began, _began(self.process)):", "if False:"),
        (" and _agree(self.began, other.began)", ""),
        ("or not 0 < owner.process <= LARGEST_PROCESS", ""),
        ('    check_local(folder, "the folder")\n', ""),
        ("    check_folder(folder)\n", ""),
        ("fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)", "fcntl.LOCK_SH | (0 if wait else fcntl.LOCK_NB)"),
        ("if before is not None and not locked and before.may_live():", "if before is not None and before.may_live():"),
    ),
    *faults(
        "cassr_jax/sharding/mesh.py",
        ("tests/sharding/test_mesh.py::test_an_address_that_is_none_is_one_sentence",),
        ("0 < int(port) < 2**16", "0 < int(port)"),
        ("int(index) < int(count)", "int(index) <= int(count)"),
    ),
    *faults(
        "cassr_jax/config_files.py",
        (
            "tests/test_config_files.py::test_a_component_lies_beside_the_configuration_or_in_the_working_directory_or_on_the_hub",
        ),
        ("return str(below) if exists(below) else component", "return component"),
        ("return str(below) if exists(below) else component", "return str(below)"),
    ),
    *faults(
        "cassr_jax/config_files.py",
        ("tests/test_config_files.py::test_a_set_of_a_mixture_may_have_dots_in_its_path",),
        ('".".join(path): _parsed', "path[-1]: _parsed"),
    ),
    *faults(
        "cassr_jax/config_files.py",
        ("tests/test_config_files.py::test_a_component_that_is_none_is_named",),
        ("    check_components(config.components, str(path))\n", ""),
    ),
    *faults(
        "cassr_jax/loading.py",
        ("tests/test_config_files.py::test_a_component_that_is_none_is_named",),
        ("    check_components(config.components, str(source))\n", ""),
    ),
    *faults(
        "cassr_jax/files.py",
        ("tests/test_files.py",),
        ("secrets.token_hex(8)", "os.getpid()"),
        ("closed = not os.access(root, os.X_OK)", "closed = False"),
        ("                report(reason)\n", "                broken(path)\n"),
        ("{errno.ENOENT, errno.ENOTDIR, errno.ELOOP}", "{errno.ENOENT, errno.ENOTDIR}"),
        ("{errno.ENOENT, errno.ENOTDIR, errno.ELOOP}", "{errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES}"),
        ("    exists(folder)  # nobody can tell if a name is too long\n", ""),
    ),
    *faults(
        "cassr_jax/ranges.py",
        ("tests/test_ranges.py",),
        ("LARGEST if self._counts else sys.float_info.max", 'float("inf")'),
        ("if not abs(value) <= (LARGEST", "if abs(value) > (LARGEST"),
    ),
]

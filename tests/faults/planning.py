"""Faults in the planner: reading programs, counting their costs, and reckoning times."""

from tests.faults.fault import faults

_HLO, _COSTS, _TIMES, _PLAN = (("tests/sharding/test_" + name + ".py",) for name in ("hlo", "costs", "times", "plan"))

PLANNING = [
    *faults(
        "cassr_jax/sharding/hlo.py",
        _HLO,
        ("max(end - first, 0)", "max(end, 0)"),
        ("times * (1 if trips is None else trips)", "times"),
        ("holds = shares.get(scope[1])", "holds = shares.get(scope[1], 0.5)"),
        ("place == 1) else 1.0 - holds", "place == 0) else 1.0 - holds"),
        ("known and trips is not None", "known"),
        ("return [tuple(ids[place] for place in group)", "return [tuple(place for place in group)"),
        ('if self.attributes.startswith("mesh["', 'if self.attributes.startswith("no mesh["'),
        ("for axis in order:\n        found", "for axis in sorted(order):\n        found"),
        ("return None\n    return tuple(names[axis]", "pass\n    return tuple(names[axis]"),
    ),
    *faults(
        "cassr_jax/sharding/costs.py",
        _COSTS,
        ("made -= given", "made -= 0"),
        ('in ("async-start", "fusion")', '== "async-start"'),
        ("max(given, made), run.times", "given, run.times"),
        (" and place % holes == 0", ""),
        ("kernel, made = made, kernel", "pass"),
        ("read += sum(array.nbytes for array in each.results)", "return whole"),
    ),
    *faults(
        "cassr_jax/sharding/times.py",
        _TIMES,
        ('(2.0 if kind == "all-reduce" else 1.0) * max(within', "max(within"),
        ("2.0 if closed else 1.0", "2.0"),
        ("/ (joined.each * chip.network)", "/ chip.network"),
        ("self.work + self.collectives - self.hidden", "self.work + self.collectives"),
    ),
    *faults(
        "cassr_jax/sharding/account.py",
        _PLAN,
        ("spent / len(open_)", "spent * 0"),
        ("memory.output_size_in_bytes - memory.alias_size_in_bytes", "0"),
        ("hidden = min(seconds, windows", "hidden = max(seconds, windows"),
        ("total[place] += found.times * value", "total[place] += value"),
    ),
    *faults(
        "cassr_jax/training/dividing.py",
        ("tests/training/test_division.py::test_kernels_travel_in_the_type_of_the_computation",),
        ("value.astype(dtype), divided_as[name])", "value.astype(dtype), whole[name])"),
        ("jnp.dtype(dtype).itemsize < value", "jnp.dtype(dtype).itemsize > value"),
    ),
    *faults(
        "cassr_jax/sharding/placement.py",
        ("tests/sharding/test_placement.py",),
        ("P(BATCH_AXES, *free, *axes)", "P(None, *free, *axes)"),
        ("shape[0] % self.batch_shards", "shape[0] % 1"),
        (
            "[axis for axis in entry if axis not in BATCH_AXES]",
            "[axis for axis in entry if axis != 'fsdp']",
        ),
    ),
    *faults(
        "cassr_jax/sharding/placement.py",
        ("tests/training/test_division.py::test_what_zero_divides",),
        ("self.stored(params) if self.strategy.zero == 3", "self.stored(params) if self.strategy.zero >= 1"),
        ("        if self.strategy.zero == 1:\n            return gradients\n", ""),
    ),
    *faults(
        "cassr_jax/training/step.py",
        ("tests/training/test_division.py::test_weights_gathered_again_change_no_number",),
        ('again = placement.strategy.gather == "again"', "again = False"),
    ),
    *faults(
        "cassr_jax/sharding/strategies.py",
        ("tests/training/test_compile_ahead.py::test_parameters_and_values_lie_where_they_did",),
        ('Rule(r"\\.(branch|output|tokens)$", (None,))', 'Rule(r"\\.(branch|tokens)$", (None,))'),
        ('Rule(r"^vae\\.", (None,)),\n', ""),
    ),
    *faults(
        "cassr_jax/models/layers.py",
        (
            "tests/training/test_division.py::test_eight_devices_do_what_one_does_with_an_eighth_of_the_work_each[spatial]",
        ),
        ("self.is_product = kernel_size == 1 and stride == 1", "self.is_product = False"),
    ),
    *faults(
        "cassr_jax/models/dot_product.py",
        ("tests/models/test_dot_product.py::test_each_device_attends_for_its_own_examples_heads_and_rows",),
        (
            "PartitionSpec((*division.batch, *alone), division.heads, rows)",
            "PartitionSpec((*division.batch, *alone), division.heads)",
        ),
    ),
    *faults(
        "cassr_jax/sharding/plan.py",
        _PLAN,
        ("round(config.batch_size / args.scan[0] * count)", "config.batch_size"),
        ("[case.known, case.on, case.name, effort,", "[case.known, case.on, case.name,"),
        ("config, name = override(config, args.set), str", "name = str"),
    ),
    *faults(
        "cassr_jax/sharding/measured.py",
        ("tests/sharding/test_measured.py",),
        ("within[-1][1][0] -= event.duration_ns", "pass"),
        ("within[-1][0] <= event.start_ns", "within[-1][0] < event.start_ns"),
        ("value / (calls * mesh.size)", "value / calls"),
        ("if line.name == _DEVICE_LINE] or lines", "] or lines"),
    ),
    *faults(
        "cassr_jax/training/measure.py",
        ("tests/training/test_measure.py",),
        ("mesh, traced, chip)", "mesh, traced + 1, chip)"),
        ("return 0.02 * jax", "return jax"),
    ),
    *faults(
        "cassr_jax/training/compile_ahead.py",
        ("tests/training/test_compile_ahead.py::test_gradients_of_parts_add_up_as_they_are_stored",),
        ("nbytes(placement.used(params))", "nbytes(placement.stored(params))"),
        ("if parts > 1 else 0", "if parts > 2 else 0"),
    ),
    *faults(
        "cassr_jax/sharding/topologies.py",
        ("tests/training/test_compile_ahead.py::test_devices_that_are_not_here_are_not_measured",),
        ("found[0].device_kind not in CHIPS[kind].kinds or ", ""),
    ),
    *faults(
        "cassr_jax/sharding/sampled.py",
        _PLAN,
        ("self.hosts * self.pictures / times.guess", "self.pictures / times.guess"),
    ),
    *faults(
        "cassr_jax/sampling_ahead.py",
        ("tests/test_sampling_ahead.py",),
        ("Unstated(units // calls,", "Unstated(1,"),
        ("GUIDANCE: len(sampling.guided_steps) / count", "GUIDANCE: 1.0"),
        ("RENEWAL: float(renewed.mean())", "RENEWAL: 1.0"),
        ("if known.name in _BEFORE_STEPS:", "if False:"),
        ("else known.arguments[1:]", "else known.arguments"),
    ),
    *faults(
        "cassr_jax/engine/ahead.py",
        ("tests/test_sampling_ahead.py",),
        ("self.units[self.stage, full] += int(last - first)", "self.units[self.stage, full] += 1"),
        ("self.calls[self.stage, full] += 1", "self.calls[self.stage, full] = 1"),
    ),
    *faults(
        "cassr_jax/training/search.py",
        ("tests/training/test_search.py",),
        ("key=lambda choice: (choice.least > chip.memory, choice.seconds)", "key=lambda choice: choice.seconds"),
        ("(_STATES - 1) * divided", "_STATES * divided"),
        ("least += narrow", "least += 0"),
        ("max(1, min(count, in_host // apart))", "count"),
        ("config.batch_size % (shards * count) == 0", "True"),
    ),
    *faults(
        "cassr_jax/training/outline.py",
        ("tests/training/test_search.py::test_the_outline_of_a_narrow_step",),
        ("two - one, held_by_two - held", "two - one, held"),
        ("places = places or seen", "places = seen"),
    ),
]

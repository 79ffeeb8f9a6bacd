"""Faults in the planner: reading programs, counting their costs, and reckoning times."""

from tests.faults.fault import faults

_HLO, _COSTS, _TIMES, _PLAN = (("tests/sharding/test_" + name + ".py",) for name in ("hlo", "costs", "times", "plan"))

PLANNING = [
    *faults(
        "cassr_jax/sharding/hlo.py",
        _HLO,
        ("max(end - first, 0)", "max(end, 0)"),
        ("times * (1 if trips is None else trips)", "times"),
        ("known and trips is not None", "known"),
        ("for axis in order:\n        found", "for axis in sorted(order):\n        found"),
        ("return None\n    return tuple(names[axis]", "pass\n    return tuple(names[axis]"),
    ),
    *faults(
        "cassr_jax/sharding/costs.py",
        _COSTS,
        ("made -= given", "made -= 0"),
        ("max(given, made), run.times", "given, run.times"),
        (" and place % holes == 0", ""),
        ("kernel, made = made, kernel", "pass"),
        ("read += sum(array.nbytes for array in each.results)", "return whole"),
    ),
    *faults(
        "cassr_jax/sharding/times.py",
        _TIMES,
        ("twice * max(within, between)", "max(within, between)"),
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
        "cassr_jax/training/step.py",
        ("tests/training/test_division.py::test_trained_kernels_travel_in_the_type_of_the_computation",),
        ("value.astype(dtype), divided_as[name])", "value.astype(dtype), whole[name])"),
        ("jnp.dtype(dtype).itemsize < value", "jnp.dtype(dtype).itemsize > value"),
    ),
    *faults(
        "cassr_jax/sharding/plan.py",
        _PLAN,
        ("round(each * count)", "config.batch_size"),
        ("[to_json(config), on, strategy, effort,", "[to_json(config), on, strategy,"),
    ),
]

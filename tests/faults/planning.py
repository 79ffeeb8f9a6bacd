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
        ("[case.known, case.on, case.name, effort,", "[case.known, case.on, case.name,"),
        ("config, name = override(config, args.set), str", "name = str"),
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
]

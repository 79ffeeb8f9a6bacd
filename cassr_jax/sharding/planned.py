"""Plans: a program on devices that need not be here, with its account and what follows from it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar, cast

from cassr_jax.sharding.account import Account, Traffic
from cassr_jax.sharding.chips import CHIPS
from cassr_jax.sharding.measured import Measured, Operation
from cassr_jax.sharding.times import Times

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """A training step on some devices.

    Attributes:
        on: the devices, such as "v5e:16x16" or "h200:8".
        strategy: its name.
        stage: the stage that is trained.
        examples: in one step, over all devices.
        steps: of the whole training.
        useful_flops: of one step on one device, without what is computed again to save memory.
        gradients: bytes of the account's temporary memory that are gradients, if all of them lie there at once in the
            layout in which the backward pass makes them.
        account: of one step.
        measured: what steps took where the devices are; None if none was run.
    """

    on: str
    strategy: str
    stage: str
    examples: int
    steps: int
    useful_flops: float
    gradients: int
    account: Account
    measured: Measured | None = None

    @property
    def title(self) -> str:
        return f"{self.on} {self.strategy}"

    @property
    def activations(self) -> int:
        """Bytes of all else that lives during a step."""
        return self.account.temporary - self.gradients

    @property
    def images_per_second(self) -> float | None:
        times = self.account.times
        return None if times is None else self.examples / times.guess

    @property
    def utilisation(self) -> float | None:
        """The share of the chip's peak that useful products reach, also called MFU."""
        times, chip = self.account.times, CHIPS.get(self.on.partition(":")[0])
        return None if times is None or chip is None else self.useful_flops / times.guess / chip.flops

    @property
    def hours(self) -> float | None:
        times = self.account.times
        return None if times is None else times.guess * self.steps / 3600

    def advice(self) -> list[str]:
        """What would make the step fit, or why it is slow; the most useful first."""
        account, found = self.account, []
        if account.fits is False:
            held = sum(account.held.values())
            if self.activations > held:
                found.append(
                    "activations are the larger part: --set remat=blocks, remat=all, or a smaller batch a device"
                )
                found.append("--set accumulate=2 computes the batch in two parts")
            if account.devices > 1 and account.mesh.get("fsdp", 1) == 1:
                found.append("--strategy fsdp divides what every device holds whole")
            elif held > self.activations:
                found.append("more devices on the axis `fsdp` hold less each")
        return found + waiting(account)

    def as_json(self) -> dict[str, Any]:
        """The plan for a JSON file, with what follows from it."""
        derived = ("images_per_second", "utilisation", "hours")
        found = asdict(self) | {"account": account_to_json(self.account)}
        return found | {name: getattr(self, name) for name in derived}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Plan":
        """The plan that `as_json` made."""
        measured = found["measured"]
        if measured is not None:
            rows = tuple(Operation(**row) for row in measured["operations"])
            measured = given(Measured, {**measured, "operations": rows})
        return given(cls, {**found, "account": account_from_json(found["account"]), "measured": measured})


def account_to_json(account: Account) -> dict[str, Any]:
    """An account for a JSON file, with what follows from it."""
    found: dict[str, Any] = asdict(account) | {"fits": account.fits}
    if account.times is not None:
        found["times"] |= {name: getattr(account.times, name) for name in ("least", "most", "guess", "exposed")}
    return found


def account_from_json(found: Mapping[str, Any]) -> Account:
    """The account that `account_to_json` made."""
    rows = (row | {"axes": None if row["axes"] is None else tuple(row["axes"])} for row in found["traffic"])
    times = None if found["times"] is None else given(Times, found["times"])
    return given(Account, {**found, "traffic": tuple(Traffic(**row) for row in rows), "times": times})


def given(kind: type[T], values: Mapping[str, Any]) -> T:
    """A dataclass from the values of its own fields; what is derived from them is left out."""
    return kind(**{each.name: values[each.name] for each in fields(cast(Any, kind))})


def waiting(account: Account) -> list[str]:
    """For which collective devices wait longest, if they wait for more than a twentieth of the time."""
    if account.times is None or account.times.exposed <= 0.05:
        return []
    row = account.traffic[0]
    place = f" from {row.source}" if row.source else ""
    return [
        f"devices wait for each other in {account.times.exposed:.0%} of the time, longest for {row.kind} over "
        f"{axes_in_words(row)}{place}"
    ]


def axes_in_words(row: Traffic) -> str:
    return "devices along no axis" if row.axes is None else " and ".join(row.axes)

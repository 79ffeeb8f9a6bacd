"""Plans of sampling: the programs of a cascade on devices that need not be here, and what follows from them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cassr_jax.sharding.account import Account
from cassr_jax.sharding.chips import CHIPS
from cassr_jax.sharding.planned import account_from_json, account_to_json, given, waiting


@dataclass(frozen=True)
class Part:
    """One of the programs that pictures go through.

    Attributes:
        stage: "reference" or "result".
        name: what it does.
        calls: how often it runs.
        account: of one call; its memory is all that a device holds during it.
    """

    stage: str
    name: str
    calls: int
    account: Account

    @property
    def title(self) -> str:
        return f"{self.stage}, {self.name}"

    @property
    def seconds(self) -> float:
        """Of all calls, by the best guess; 0 if the chip is not known."""
        times = self.account.times
        return 0.0 if times is None else self.calls * times.guess


@dataclass(frozen=True)
class SamplePlan:
    """The sampling of as many pictures as fill some devices.

    Attributes:
        on: the devices, such as "v5e:2x4" or "h200:8".
        source: the cascade.
        hosts: how many hosts the devices have; each runs a process of its own on its own pictures (`--shard`).
        pictures: in hand on one host, of one tile each.
        tile: the side of a tile in px.
        parts: the programs, in the order of their first calls.
        account: of all calls of all programs on one host, with the memory of the part that holds most.
    """

    on: str
    source: str
    hosts: int
    pictures: int
    tile: int
    parts: tuple[Part, ...]
    account: Account

    @property
    def title(self) -> str:
        return self.on

    @property
    def largest(self) -> Part:
        """The part during which a device holds most."""
        return max(self.parts, key=lambda part: part.account.total)

    @property
    def pictures_per_second(self) -> float | None:
        """Of all hosts."""
        times = self.account.times
        return None if times is None else self.hosts * self.pictures / times.guess

    @property
    def utilisation(self) -> float | None:
        """The share of the chip's peak that the products reach."""
        times, chip = self.account.times, CHIPS.get(self.on.partition(":")[0])
        return None if times is None or chip is None else self.account.flops / times.guess / chip.flops

    def advice(self) -> list[str]:
        """What would make the sampling fit, or why it is slow; the most useful first."""
        found = []
        if self.account.fits is False:
            found.append(f"most is held in {self.largest.title}: --set tiles_at_once=1, or a smaller tile")
        return found + waiting(self.account)

    def as_json(self) -> dict[str, Any]:
        """The plan for a JSON file, with what follows from it."""
        parts = [asdict(part) | {"account": account_to_json(part.account)} for part in self.parts]
        found = asdict(self) | {"parts": parts, "account": account_to_json(self.account)}
        return found | {name: getattr(self, name) for name in ("pictures_per_second", "utilisation")}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "SamplePlan":
        """The plan that `as_json` made."""
        parts = tuple(given(Part, {**row, "account": account_from_json(row["account"])}) for row in found["parts"])
        return given(cls, {**found, "parts": parts, "account": account_from_json(found["account"])})

"""The groups of devices that a collective joins, as XLA writes them, and the axes of a mesh along which they lie."""

import math
import re
from collections.abc import Mapping, Sequence


def groups_of(text: str, devices: int) -> list[tuple[int, ...]]:
    """The groups of devices in a `replica_groups` attribute, in any of the forms in which XLA writes it.

    Args:
        text: `{{0,1},{2,3}}`, `[2,2]<=[4]`, `[2,2]<=[2,2]T(1,0)`, or `mesh['a'=2,'b'=4] {'a','b':(1)2}`, where the last
            means the slower half of `b` and a list of the mesh's devices may stand before the braces; empty for all.
        devices: the number of devices.

    Raises:
        ValueError: it has another form.
    """
    if text.startswith("mesh["):
        return _of_mesh(text)
    if found := re.match(r"\[(?P<groups>[\d,]+)\]<=\[(?P<sizes>[\d,]+)\](?:T\((?P<order>[\d,]+)\))?", text):
        sizes, shape = (tuple(map(int, found[key].split(","))) for key in ("sizes", "groups"))
        order = tuple(map(int, found["order"].split(","))) if found["order"] else tuple(range(len(sizes)))
        flat = _transposed(sizes, order)
        each = shape[-1]
        return [tuple(flat[i : i + each]) for i in range(0, len(flat), each)]
    if not re.fullmatch(r"(\{[{}\d, ]*\})?", text):
        raise ValueError(f"replica_groups={text}: a form that is not known")
    groups = [tuple(map(int, group.split(","))) for group in re.findall(r"\{([\d,]+)\}", text)]
    return groups or [tuple(range(devices))]


def _of_mesh(text: str) -> list[tuple[int, ...]]:
    devices = r"\[(?P<sizes>[\d,]+)\](?:T\((?P<order>[\d,]+)\))?|(?P<ids>[\d,]+)"
    found = re.fullmatch(rf"mesh\[(?P<mesh>[^\]]*)\](?:, device_ids=\((?:{devices})\))? ?\{{(?P<axes>[^}}]*)\}}", text)
    if found is None:
        raise ValueError(f"replica_groups={text}: a form that is not known")
    sizes = [(name, int(size)) for name, size in re.findall(r"'([^']+)'=(\d+)", found["mesh"])]
    parts: list[int] = []  # of the axes, cut where only a part of one is chosen
    chosen: list[int] = []
    wanted = {
        name: (before, size) for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", found["axes"])
    }
    for name, whole in sizes:
        before, size = wanted.get(name, ("", ""))
        cut = [int(before), int(size), whole // (int(before) * int(size))] if size else [1, whole, 1]
        if name in wanted:
            chosen.append(len(parts) + 1)
        parts += cut
    count = math.prod(parts)
    ids = list(range(count))
    if found["sizes"]:
        shape = tuple(map(int, found["sizes"].split(",")))
        ids = _transposed(shape, tuple(map(int, found["order"].split(","))) if found["order"] else range(len(shape)))
    elif found["ids"]:
        ids = list(map(int, found["ids"].split(",")))
    return [tuple(ids[place] for place in group) for group in _along(parts, chosen)]


def _along(sizes: Sequence[int], axes: Sequence[int]) -> list[tuple[int, ...]]:
    """The groups of devices, numbered row by row in a mesh of these sizes, that differ in the given axes alone."""
    rest = [axis for axis in range(len(sizes)) if axis not in axes]
    flat = _transposed(sizes, [*rest, *axes])
    each = math.prod(sizes[axis] for axis in axes)
    return [tuple(flat[i : i + each]) for i in range(0, len(flat), each)]


def _transposed(sizes: Sequence[int], order: Sequence[int]) -> list[int]:
    strides = [math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))]
    found = [0]
    for axis in order:
        found = [number + place * strides[axis] for number in found for place in range(sizes[axis])]
    return found


def axes_of(groups: Sequence[Sequence[int]], mesh: Mapping[str, int]) -> tuple[str, ...] | None:
    """The axes of a mesh along which the devices of each group differ; None if the groups follow no axes.

    Args:
        groups: groups of devices, numbered row by row in the mesh.
        mesh: name -> size, in the mesh's order.
    """
    sizes, names = list(mesh.values()), list(mesh)
    found = set()
    for group in groups:
        places = [_place(device, sizes) for device in group]
        found |= {axis for axis in range(len(sizes)) if len({place[axis] for place in places}) > 1}
    axes = sorted(found)
    whole = {frozenset(group) for group in _along(sizes, axes)}
    if {frozenset(group) for group in groups} != whole:
        return None
    return tuple(names[axis] for axis in axes)


def _place(device: int, sizes: Sequence[int]) -> tuple[int, ...]:
    place = []
    for size in reversed(sizes):
        device, rest = divmod(device, size)
        place.append(rest)
    return tuple(reversed(place))

"""Damage done to files, as a failing disk does it."""

from pathlib import Path


def damage_arrays(state: Path) -> None:
    """Change bytes of an Orbax state's arrays, whose list stays as it is."""
    arrays = max(state.rglob("d/*"), key=lambda file: file.stat().st_size)
    content = arrays.read_bytes()
    start, end = len(content) // 4, len(content) // 2
    arrays.write_bytes(content[:start] + bytes(255 - byte for byte in content[start:end]) + content[end:])

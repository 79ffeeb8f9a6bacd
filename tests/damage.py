"""Damage done to files, as a failing disk does it."""

from pathlib import Path


def damage(file: Path) -> None:
    """Change bytes in the middle of a file."""
    content = file.read_bytes()
    start, end = len(content) // 4, len(content) // 2
    file.write_bytes(content[:start] + bytes(255 - byte for byte in content[start:end]) + content[end:])

"""The engine runs a cascade's networks on pictures of any size; it keeps every device busy and compiles nothing twice.

- `layout`: where the tiles of a picture lie, and which tiles share a position.
- `waves`: pictures that go through the networks together, and the device of each of their tiles.
- `programs`: the compiled functions. Tiles have a few fixed sizes; their numbers and places are data.
- `kept`: those functions, kept for the next start of a process.
- `recent`: a small store of what was computed last.
- `engine`: a whole stage on many pictures: cut, run, blend.
"""

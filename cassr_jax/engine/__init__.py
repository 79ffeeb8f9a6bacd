"""The engine that runs a cascade's networks on pictures of any size, with every device busy and nothing compiled twice.

- `layout`: where the tiles of a picture lie, and which tiles share a position.
- `waves`: pictures that go through the networks together, and which device has which tile.
- `programs`: the compiled functions. They see tiles of a few fixed sizes; numbers and places of tiles are data.
- `engine`: a stage on many pictures: cut, run, blend.
"""

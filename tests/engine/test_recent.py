"""The store of recent values."""

from cassr_jax.engine.recent import Recent


def test_the_oldest_value_makes_room_for_a_new_one():
    kept: Recent[str, str] = Recent(2)
    made: list[str] = []

    def value(key: str) -> str:
        def make() -> str:
            made.append(key)
            return key.upper()

        return kept.get(key, make)

    assert [value(key) for key in "abacbca"] == list("ABACBCA")
    assert made == list("abca")  # a made room for c

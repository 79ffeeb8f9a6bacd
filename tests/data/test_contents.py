"""A set's fingerprint follows its contents, wherever they lie."""

import shutil

import pytest

from cassr_jax.data.contents import fingerprint_sets
from tests.training.runs import write_pictures


@pytest.fixture
def pictures(tmp_path):
    return write_pictures(tmp_path / "pictures", 3)


def test_a_copy_elsewhere_is_the_same_set_and_other_files_do_not_matter(pictures, tmp_path):
    before = fingerprint_sets([pictures])
    copy = shutil.copytree(pictures, tmp_path / "copy")
    (copy / "windows_32.npz").write_bytes(b"found later")
    (copy / ".hidden.png").write_bytes(b"")
    assert fingerprint_sets([copy]) == before
    assert len(before) == 16
    assert fingerprint_sets([pictures, copy]) != before


@pytest.mark.parametrize("change", ["removed", "renamed", "exchanged", "longer", "end", "added"])
def test_a_change_is_noticed(pictures, change):
    first, second = pictures / "0.png", pictures / "1.png"
    first.write_bytes(first.read_bytes() + bytes(3 << 20))  # longer than what is looked at
    before = fingerprint_sets([pictures])
    data = first.read_bytes()
    match change:
        case "removed":
            first.unlink()
        case "renamed":
            (pictures / "2.png").rename(pictures / "9.png")  # which leaves the order as it is
        case "exchanged":
            first.write_bytes(second.read_bytes()), second.write_bytes(data)
        case "longer":
            first.write_bytes(data + b"0")
        case "end":
            first.write_bytes(data[:-1] + b"1")
        case "added":
            (pictures / "00000.array_record-00000-of-00001").write_bytes(b"records")
    assert fingerprint_sets([pictures]) != before

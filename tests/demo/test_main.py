"""How the demo begins, and what it refuses before it loads anything."""

import socket

import pytest

from cassr_jax.demo.__main__ import check_address, main
from cassr_jax.errors import InputError


def test_an_address_that_is_taken_is_a_sentence(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--port", str(port)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"cassr-demo: --host 127.0.0.1 --port {port}: ")
    assert said.count("\n") == 1
    check_address("127.0.0.1", port)  # which is free again


def test_a_host_that_is_not_this_machine_is_refused():
    with pytest.raises(InputError, match=r"--host 192\.0\.2\.1 --port 7999: "):  # for documentation alone, RFC 5737
        check_address("192.0.2.1", 7999)


@pytest.mark.parametrize("arguments", [["--port", "70000"], ["--queue", "0"], ["--max-megapixels", "x"]])
def test_what_is_out_of_range_is_refused(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "expected" in capsys.readouterr().err

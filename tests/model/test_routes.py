"""Which way the data goes between two servers."""

import pytest

from vbrcore.model.errors import NoRoute
from vbrcore.model.inventory import Server, SshAccess
from vbrcore.model.routes import Route, data_route


def server(
    name: str, *, address: str = "", dials_only: bool = False, ports: tuple[int, int] = (46200, 46299)
) -> Server:
    ssh = None if name == "local" else SshAccess(f"{name}.example", "backup", "ssh-ed25519 AAAA")
    return Server(f"id-{name}", name, ("proxy",), 2, 2, "", ssh, address, ports, dials_only)


def test_on_one_server_they_meet_at_a_socket_even_where_it_only_dials() -> None:
    assert data_route(server("a", dials_only=True), server("a", dials_only=True)).way == "socket"


def test_the_target_listens_at_its_own_address_and_ports() -> None:
    route = data_route(server("a"), server("b", ports=(50000, 50009)))
    assert route == Route("target_listens", "b.example", (50000, 50009), "a.example", "b", ("", ""))
    assert data_route(server("a", dials_only=True), server("b", address="10.0.0.2")).address == "10.0.0.2"


def test_the_source_listens_where_the_target_only_dials() -> None:
    route = data_route(server("a", address="10.0.0.1", ports=(1024, 1030)), server("b", dials_only=True))
    assert route == Route("source_listens", "10.0.0.1", (1024, 1030), "b.example", "a", ("", ""))


def test_two_that_only_dial_have_no_route() -> None:
    with pytest.raises(NoRoute, match="from a to b: both only dial") as caught:
        data_route(server("a", dials_only=True), server("b", dials_only=True))
    assert not caught.value.retryable


def test_the_address_of_this_machine_may_be_left_open() -> None:
    assert data_route(server("a"), server("local")) == Route(
        "target_listens", "", (46200, 46299), "a.example", "local", ("", "")
    )

"""How servers are: away for longer and longer, back at once, and forgotten with the server."""

import time
from itertools import pairwise

import pytest

from vbrcore.catalog.catalog import Catalog
from vbrcore.model.errors import InUse
from vbrcore.model.inventory import Server, SshAccess
from vbrcore.model.serverfacts import ServerFacts, ServerState
from vbrcore.secrets.secret import Secret

FAR = Server(
    "f",
    "far",
    ("proxy",),
    2,
    2,
    site="berlin",
    ssh=SshAccess("far.example", "backup", "ssh-ed25519 AAAA", 2222, "identity"),
    ports=(47000, 47009),
    dials_only=True,
)
FACTS = ServerFacts(os="Linux", python="3.11.2", cores=4)


def test_a_server_is_kept_with_its_access_and_its_sealed_secret(catalog: Catalog) -> None:
    catalog.add_server(FAR, {"identity": Secret("geheim")})
    assert catalog.server_by_name("far") == FAR
    assert catalog.server_secrets("f") == {"identity": Secret("geheim")}
    catalog.update_server("f", roles=("proxy", "gateway"), ports=(48000, 48001))
    assert (catalog.server("f").roles, catalog.server("f").ports) == (("proxy", "gateway"), (48000, 48001))


def test_one_that_is_away_is_tried_less_and_less_often_and_counts_anew_once_it_is_back(catalog: Catalog) -> None:
    catalog.add_server(FAR)
    waits = []
    for _ in range(9):
        catalog.note_server_away("f", "no answer")
        waits.append(catalog.server_state("f").next_try - time.time())
    assert all(earlier < later for earlier, later in pairwise(waits[:7]))
    assert max(waits) <= 300
    catalog.note_server_there("f", FACTS)
    state = catalog.server_states()["f"]
    assert (state.away, state.failures, state.facts) == ("", 0, FACTS)
    assert state.checked is not None
    catalog.note_server_away("f", "no answer")
    assert catalog.server_state("f").facts == FACTS  # what was found stays known
    catalog.note_server_there("f")
    assert catalog.server_state("f").facts == FACTS


def test_a_server_that_is_removed_leaves_nothing(catalog: Catalog) -> None:
    catalog.add_server(FAR, {"identity": Secret("geheim")})
    catalog.note_server_there("f", FACTS)
    catalog.remove_server("f")
    catalog.note_server_away("f", "a manager found out late")
    assert (catalog.servers(), catalog.server_states(), catalog.server_secrets("f")) == ((), {}, {})
    assert catalog.server_state("f") == ServerState("f")


def test_a_server_on_which_a_session_holds_a_place_stays(catalog: Catalog) -> None:
    catalog.add_server(FAR)
    with catalog._database.write() as connection:
        connection.execute(
            "INSERT INTO leases (session_id, scope, resource, demand_id) VALUES ('s', 't', 'host:f', 'd')"
        )
    with pytest.raises(InUse, match="1 places"):
        catalog.remove_server("f")
    assert catalog.servers() == (FAR,)

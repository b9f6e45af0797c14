"""What a new deployment has out of the box: this machine as a proxy and repository server, and a repository."""

from vbrcore.api.home import Home
from vbrcore.catalog.catalog import Catalog
from vbrcore.model.ids import new_id
from vbrcore.model.inventory import LOCAL_SERVER, Repository, Server
from vbrcore.service.balancing import default_slots
from vbrcore.storage.repository import create_repository

DEFAULT_REPOSITORY = "default"


def add_defaults(home: Home, catalog: Catalog) -> None:
    """Add them to a catalog without servers, which is a new one. What was removed later does not come back."""
    if catalog.servers():
        return
    slots = default_slots()
    repository_id = new_id()
    if not any(home.default_repository.iterdir()):
        create_repository(home.default_repository, repository_id)
        catalog.add_repository(
            Repository(
                repository_id=repository_id,
                name=DEFAULT_REPOSITORY,
                server=LOCAL_SERVER,
                path=str(home.default_repository),
                slots=slots,
            )
        )
    catalog.add_server(
        Server(
            server_id=new_id(),
            name=LOCAL_SERVER,
            roles=("proxy", "repository"),
            proxy_slots=slots,
            host_budget=slots,
        )
    )

"""Hypervisors, servers, repositories and credentials, with their sealed secrets."""

import sqlite3
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from vbrcore.catalog.base import Rows
from vbrcore.catalog.rows import RowType
from vbrcore.model.errors import AlreadyExists, InUse, NotFound
from vbrcore.model.inventory import Credential, Hypervisor, Repository, Server
from vbrcore.model.place import PASSWORD, Place, share_of
from vbrcore.secrets.secret import Secret

T = TypeVar("T", bound=msgspec.Struct)

_HYPERVISORS = RowType("hypervisors", Hypervisor, "hypervisor_id", nested=("settings", "secret_names"))
_SERVERS = RowType("servers", Server, "server_id", nested=("roles", "ssh", "ports"))
_REPOSITORIES = RowType("repositories", Repository, "repository_id", nested=("proxy_affinity", "gateways"))
_CREDENTIALS = RowType("credentials", Credential, "credential_id")


class InventoryRows(Rows):
    """What there is. Names are unique per noun (`AlreadyExists`)."""

    # --- hypervisors ----------------------------------------------------------------------------

    def add_hypervisor(self, hypervisor: Hypervisor, secrets: Mapping[str, Secret]) -> None:
        self._insert(_HYPERVISORS, hypervisor, f"hypervisor {hypervisor.name}", hypervisor.hypervisor_id, secrets)

    def hypervisor(self, hypervisor_id: str) -> Hypervisor:
        return self._get(_HYPERVISORS, hypervisor_id, "hypervisor")

    def hypervisor_by_name(self, name: str) -> Hypervisor:
        return self._get(_HYPERVISORS, name, "hypervisor", "name")

    def hypervisors(self) -> tuple[Hypervisor, ...]:
        return self._all(_HYPERVISORS, "name")

    def hypervisor_secrets(self, hypervisor: Hypervisor) -> dict[str, str]:
        """Return the unsealed secrets of a hypervisor, for the plugin's `connect`."""
        return {name: secret.reveal() for name, secret in self._secrets(hypervisor.hypervisor_id).items()}

    def remove_hypervisor(self, hypervisor_id: str) -> None:
        """Raise `InUse` while a job uses it, or something is still to be undone on it."""
        self._remove(_HYPERVISORS, hypervisor_id, "hypervisor", ("jobs", "journal"))

    # --- servers --------------------------------------------------------------------------------

    def add_server(self, server: Server, secrets: Mapping[str, Secret] | None = None) -> None:
        """`secrets`: `identity` or `password`, as its `ssh.login` says."""
        self._insert(_SERVERS, server, f"server {server.name}", server.server_id, secrets)

    def server(self, server_id: str) -> Server:
        return self._get(_SERVERS, server_id, "server")

    def server_by_name(self, name: str) -> Server:
        return self._get(_SERVERS, name, "server", "name")

    def servers(self) -> tuple[Server, ...]:
        return self._all(_SERVERS, "name")

    def server_secrets(self, server_id: str) -> dict[str, Secret]:
        """Return what proves at a server who we are, by its name."""
        return self._secrets(server_id)

    def update_server(self, server_id: str, **changes: object) -> None:
        """Change fields of a server, named as in `Server`."""
        self._update(_SERVERS, server_id, "server", changes)

    def remove_server(self, server_id: str) -> None:
        """Forget a server, its secrets and its state. Raises `InUse` while a session holds a place on it.

        Whether anything in the inventory names it is for the caller to see.
        """
        held = f"SELECT count(*) FROM leases WHERE resource IN ('proxy:{server_id}', 'host:{server_id}')"  # noqa: S608
        if count := self._database.number(held):
            raise InUse(f"sessions hold {count} places on the server")
        self._remove(_SERVERS, server_id, "server", (), ("server_states",))

    # --- repositories ---------------------------------------------------------------------------

    def add_repository(self, repository: Repository) -> None:
        self._insert(_REPOSITORIES, repository, f"repository {repository.name}")

    def repository(self, repository_id: str) -> Repository:
        return self._get(_REPOSITORIES, repository_id, "repository")

    def repository_by_name(self, name: str) -> Repository:
        return self._get(_REPOSITORIES, name, "repository", "name")

    def repositories(self) -> tuple[Repository, ...]:
        return self._all(_REPOSITORIES, "name")

    def place(self, repository: Repository) -> Place:
        """Return where a repository lies, with what opens it: only for the mover that does."""
        if not repository.is_share:
            return Place(repository.path)
        credential = self._get(_CREDENTIALS, repository.credential_id, "credential")
        secrets = {PASSWORD: self.credential_password(credential).reveal()}
        return Place(share=share_of(repository.path), username=credential.username, secrets=secrets)

    def update_repository(self, repository_id: str, **changes: object) -> None:
        """Change fields of a repository, named as in `Repository`."""
        self._update(_REPOSITORIES, repository_id, "repository", changes)

    def remove_repository(self, repository_id: str) -> None:
        """Forget a repository and the points known of it; its files stay. Raises `InUse` while a job uses it."""
        self._remove(
            _REPOSITORIES, repository_id, "repository", ("jobs",), ("points", "chains", "gateways", "chain_gateways")
        )

    # --- credentials ----------------------------------------------------------------------------

    def add_credential(self, credential: Credential, password: Secret) -> None:
        what = f"credential {credential.name}"
        self._insert(_CREDENTIALS, credential, what, credential.credential_id, {PASSWORD: password})

    def credential_by_name(self, name: str) -> Credential:
        return self._get(_CREDENTIALS, name, "credential", "name")

    def credential_password(self, credential: Credential) -> Secret:
        return self._secrets(credential.credential_id)[PASSWORD]

    def credentials(self) -> tuple[Credential, ...]:
        return self._all(_CREDENTIALS, "name")

    def remove_credential(self, credential_id: str) -> None:
        """Raise `InUse` while a share is opened with it."""
        self._remove(_CREDENTIALS, credential_id, "credential", ("repositories",))

    # --- shared ---------------------------------------------------------------------------------

    def _insert(
        self, rows: RowType[T], struct: T, what: str, owner_id: str = "", secrets: Mapping[str, Secret] | None = None
    ) -> None:
        sealed = {name: self._key.seal(secret, f"{owner_id}/{name}") for name, secret in (secrets or {}).items()}
        try:
            with self._database.write(durable=True) as connection:
                connection.execute(rows.insert_sql, rows.values(struct))
                connection.executemany(
                    "INSERT INTO secrets (owner_id, name, sealed) VALUES (?, ?, ?)",
                    [(owner_id, name, data) for name, data in sealed.items()],
                )
        except sqlite3.IntegrityError as error:
            raise AlreadyExists(f"there is a {what} already") from error

    def _update(self, rows: RowType[T], key: str, what: str, changes: Mapping[str, object]) -> None:
        sql, values = rows.update_sql(changes)
        with self._database.write(durable=True) as connection:
            if connection.execute(sql, (*values, key)).rowcount == 0:
                raise NotFound(f"there is no {what} {key}")

    def _secrets(self, owner_id: str) -> dict[str, Secret]:
        rows = self._database.rows("SELECT name, sealed FROM secrets WHERE owner_id = ?", (owner_id,))
        return {row["name"]: self._key.unseal(row["sealed"], f"{owner_id}/{row['name']}") for row in rows}

    def _remove(
        self, rows: RowType[T], value: str, what: str, users: tuple[str, ...], owned: tuple[str, ...] = ()
    ) -> None:
        """Remove a row, what it owns and its secrets, unless a row of a table in `users` names it."""
        with self._database.write(durable=True) as connection:
            for table in users:
                sql = f"SELECT count(*) FROM {table} WHERE {rows.key} = ?"  # noqa: S608 - names of our own tables
                if count := connection.execute(sql, (value,)).fetchone()[0]:
                    raise InUse(f"{what} {value} is used by {count} rows of {table}")
            for table in (rows.table, *owned):
                connection.execute(f"DELETE FROM {table} WHERE {rows.key} = ?", (value,))  # noqa: S608
            connection.execute("DELETE FROM secrets WHERE owner_id = ?", (value,))

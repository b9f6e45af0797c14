"""Credentials: named accounts whose passwords are sealed and never shown."""

from vbrcore.api import operations, types
from vbrcore.model.ids import new_id
from vbrcore.model.inventory import Credential
from vbrcore.secrets.secret import Secret
from vbrcore.service.routes import Call, Routes
from vbrcore.service.values import check_name


def add_routes(routes: Routes) -> None:
    routes.add(operations.CREDENTIAL_ADD, _add)
    routes.add(operations.CREDENTIAL_LIST, _list)
    routes.add(operations.CREDENTIAL_REMOVE, _remove)


def _add(call: Call, request: types.CredentialAdd) -> types.CredentialView:
    credential = Credential(credential_id=new_id(), name=check_name(request.name), username=request.username)
    call.service.catalog.add_credential(credential, Secret(request.password))
    return _view(credential)


def _list(call: Call, _request: types.Nothing) -> tuple[types.CredentialView, ...]:
    return tuple(_view(credential) for credential in call.service.catalog.credentials())


def _remove(call: Call, request: types.ByName) -> types.Nothing:
    catalog = call.service.catalog
    catalog.remove_credential(catalog.credential_by_name(request.name).credential_id)
    return types.Nothing()


def _view(credential: Credential) -> types.CredentialView:
    return types.CredentialView(credential.credential_id, credential.name, credential.username)

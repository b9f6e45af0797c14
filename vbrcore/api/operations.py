"""Every question that the service answers, as data: the server routes by this table, the client calls by it.

A GET operation carries its request in the query string, the others in a JSON body.
"""

from typing import Generic, Literal, TypeVar

import msgspec

from vbrcore.api import balance, jobs, servers
from vbrcore.api import types as t
from vbrcore.model.network import NetworkRule, Sites

Req = TypeVar("Req", bound=msgspec.Struct)
Rep = TypeVar("Rep")


class Operation(msgspec.Struct, Generic[Req, Rep], frozen=True):
    """One question: `changes` ones are audited. `starts` ones begin a session."""

    name: str
    method: Literal["GET", "POST", "DELETE"]
    path: str
    request: type[Req]
    reply: type[Rep]


HYPERVISOR_ADD = Operation("hypervisor_add", "POST", "/v1/hypervisors", t.HypervisorAdd, t.HypervisorView)
HYPERVISOR_LIST = Operation("hypervisor_list", "GET", "/v1/hypervisors", t.Nothing, tuple[t.HypervisorView, ...])
HYPERVISOR_SHOW = Operation("hypervisor_show", "GET", "/v1/hypervisor", t.ByName, t.HypervisorView)
HYPERVISOR_REMOVE = Operation("hypervisor_remove", "DELETE", "/v1/hypervisor", t.Remove, t.Nothing)

REPOSITORY_ADD = Operation("repository_add", "POST", "/v1/repositories", t.RepositoryAdd, t.RepositoryView)
REPOSITORY_LIST = Operation("repository_list", "GET", "/v1/repositories", t.Nothing, tuple[t.RepositoryView, ...])
REPOSITORY_SHOW = Operation("repository_show", "GET", "/v1/repository", t.ByName, t.RepositoryView)
REPOSITORY_PASSPHRASE = Operation(
    "repository_passphrase", "POST", "/v1/repository/passphrase", t.RepositoryPassphrase, t.SessionStarted
)
REPOSITORY_IMPORT = Operation("repository_import", "POST", "/v1/repository/import", t.RepositoryImport, t.ImportView)
REPOSITORY_RESCAN = Operation("repository_rescan", "POST", "/v1/repository/rescan", t.RepositoryRescan, t.RescanView)
REPOSITORY_REMOVE = Operation("repository_remove", "DELETE", "/v1/repository", t.Remove, t.Nothing)

SERVER_PROBE = Operation("server_probe", "GET", "/v1/server/probe", servers.HostKeyProbe, servers.HostKeyView)
SERVER_ADD = Operation("server_add", "POST", "/v1/servers", servers.ServerAdd, servers.ServerView)
SERVER_LIST = Operation("server_list", "GET", "/v1/servers", t.Nothing, tuple[servers.ServerView, ...])
SERVER_SHOW = Operation("server_show", "GET", "/v1/server", t.ByName, servers.ServerView)
SERVER_CHECK = Operation("server_check", "POST", "/v1/server/check", t.ByName, servers.ServerView)
SERVER_EDIT = Operation("server_edit", "POST", "/v1/server", servers.ServerEdit, servers.ServerView)
SERVER_REMOVE = Operation("server_remove", "DELETE", "/v1/server", t.Remove, t.Nothing)

PLUGIN_LIST = Operation("plugin_list", "GET", "/v1/plugins", t.Nothing, tuple[t.PluginView, ...])

NETWORK_RULE = Operation("network_rule", "POST", "/v1/network", NetworkRule, NetworkRule)
NETWORK_LIST = Operation("network_list", "GET", "/v1/network", t.Nothing, tuple[NetworkRule, ...])
NETWORK_REMOVE = Operation("network_remove", "DELETE", "/v1/network", Sites, t.Nothing)

CREDENTIAL_ADD = Operation("credential_add", "POST", "/v1/credentials", t.CredentialAdd, t.CredentialView)
CREDENTIAL_LIST = Operation("credential_list", "GET", "/v1/credentials", t.Nothing, tuple[t.CredentialView, ...])
CREDENTIAL_REMOVE = Operation("credential_remove", "DELETE", "/v1/credential", t.ByName, t.Nothing)

JOB_CREATE = Operation("job_create", "POST", "/v1/jobs", t.JobCreate, t.JobView)
JOB_LIST = Operation("job_list", "GET", "/v1/jobs", t.Nothing, tuple[t.JobView, ...])
JOB_SHOW = Operation("job_show", "GET", "/v1/job", t.ByName, t.JobView)
JOB_RUN: Operation[t.ByName, t.SessionStarted] = Operation(
    "job_run", "POST", "/v1/job/run", jobs.JobRun, t.SessionStarted
)
JOB_EDIT = Operation("job_edit", "POST", "/v1/job", jobs.JobEdit, t.JobView)
JOB_FULL = Operation("job_full", "POST", "/v1/job/full", t.JobFull, t.SessionStarted)
JOB_STOP = Operation("job_stop", "POST", "/v1/job/stop", t.JobStop, t.Nothing)
JOB_SCHEDULE = Operation("job_schedule", "POST", "/v1/job/schedule", t.JobSchedule, t.JobView)
JOB_RETENTION = Operation("job_retention", "POST", "/v1/job/retention", t.JobRetention, t.JobView)
JOB_FULLS = Operation("job_fulls", "POST", "/v1/job/fulls", t.JobFulls, t.JobView)
JOB_UPKEEP = Operation("job_upkeep", "POST", "/v1/job/upkeep", t.JobUpkeep, t.JobView)
JOB_COMPACT = Operation("job_compact", "POST", "/v1/job/compact", t.JobCompact, t.SessionStarted)
JOB_HEALTH = Operation("job_health", "POST", "/v1/job/health", t.JobHealth, t.JobView)
JOB_MAP = Operation("job_map", "POST", "/v1/job/map", t.JobMap, t.JobView)
JOB_DELETE = Operation("job_delete", "DELETE", "/v1/job", t.Remove, t.Nothing)

SCHEDULE_PREVIEW = Operation(
    "schedule_preview", "GET", "/v1/schedule", t.SchedulePreview, tuple[t.ScheduledMoment, ...]
)

RETENTION_PREVIEW = Operation("retention_preview", "GET", "/v1/retention", t.ByName, tuple[t.VerdictView, ...])
RETENTION_APPLY = Operation("retention_apply", "POST", "/v1/retention/apply", t.RetentionApply, t.SessionStarted)

HEALTH_CHECK = Operation("health_check", "POST", "/v1/health/check", t.HealthCheck, t.SessionStarted)

SESSION_LIST = Operation("session_list", "GET", "/v1/sessions", t.SessionQuery, tuple[t.SessionView, ...])
SESSION_SHOW = Operation("session_show", "GET", "/v1/session", t.ByName, t.SessionView)
SESSION_LOG = Operation("session_log", "GET", "/v1/session/log", t.LogQuery, t.LogChunk)
SESSIONS_LIVE = Operation("sessions_live", "GET", "/v1/sessions/live", t.Nothing, tuple[t.SessionView, ...])
PROCESS_LIST = Operation("process_list", "GET", "/v1/processes", t.Nothing, tuple[t.ProcessView, ...])
EXPLAIN = Operation("explain", "GET", "/v1/explain", balance.Explain, balance.ExplainView)
SLOTS = Operation("slots", "GET", "/v1/slots", t.Nothing, tuple[balance.SlotView, ...])

POINT_LIST = Operation("point_list", "GET", "/v1/points", t.PointQuery, tuple[t.PointView, ...])
POINT_SHOW = Operation("point_show", "GET", "/v1/point", t.ByName, t.PointView)
POINT_DELETE = Operation("point_delete", "DELETE", "/v1/points", t.PointDelete, t.SessionStarted)
RESTORE_DISK = Operation("restore_disk", "POST", "/v1/restore/disk", t.RestoreDisk, t.SessionStarted)
RESTORE_MACHINE = Operation("restore_machine", "POST", "/v1/restore/machine", t.RestoreMachine, t.SessionStarted)
VERIFY = Operation("verify", "POST", "/v1/verify", t.Verify, t.SessionStarted)

SERVICE_SHOW = Operation("service_show", "GET", "/v1/service", t.Nothing, t.ServiceView)
SERVICE_STOP = Operation("service_stop", "POST", "/v1/service/stop", t.ServiceStop, t.Nothing)

LIVE_STATUS = Operation("live_status", "POST", "/v1/internal/live", t.LiveStatus, t.Nothing)
POKE = Operation("poke", "POST", "/v1/internal/poke", t.Poke, t.Nothing)

ALL = tuple(value for value in list(globals().values()) if isinstance(value, Operation))

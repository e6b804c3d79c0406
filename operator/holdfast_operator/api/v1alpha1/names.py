"""Names of what belongs to a job in the cluster, and the labels, annotations and paths that go with it."""

from typing import Final

# Server-side apply: everything that the operator writes is owned by this field manager.
FIELD_MANAGER: Final = "holdfast-operator"

OPERATOR: Final = "holdfast.dev/operator"  # of `managedBy`, in the spec of a job that this operator works on

LABEL_JOB: Final = "holdfast.dev/job"  # on all that belongs to a job: its name
LABEL_NODE: Final = "holdfast.dev/node-index"  # on pods: which of the job's nodes
ANNOTATION_HASH: Final = "holdfast.dev/manifest-hash"  # on pods: of what they were made from
ANNOTATION_DRAIN: Final = "holdfast.dev/drain"  # on pods, by anybody: its node is to leave, within so many seconds

# Where a pod finds what is mounted; all below one folder, so that nothing of an image is covered.
RUN_FOLDER: Final = "/run/holdfast"
SPEC_FILE: Final = f"{RUN_FOLDER}/job/spec.yaml"
SECRET_FILE: Final = f"{RUN_FOLDER}/secret/secret"
STORE_TLS_FOLDER: Final = f"{RUN_FOLDER}/store-tls"  # ca.crt and, for a client certificate, tls.crt and tls.key
STORE_USER_FOLDER: Final = f"{RUN_FOLDER}/store-user"  # username, password
STORAGE_FOLDER: Final = f"{RUN_FOLDER}/storage"  # credentials of the remote tier
SCRATCH_FOLDER: Final = f"{RUN_FOLDER}/scratch"

AGENT_CONTAINER: Final = "holdfast"  # the container of the template that runs the agent
AGENT_PORT: Final = 4710
HEALTH_PORT: Final = 4711  # /livez and /readyz, plain and without a secret; nothing else is told there
_NAME_MAX: Final = 63
JOB_NAME_MAX: Final = 54  # so that what is named after a job has a DNS label too: `<job>-holdfast`, `<job>-<index>`

# What the operator sets in the agent's environment; a template may set any other.
AGENT_ENV: Final = tuple(
    f"HOLDFAST_{name}"
    for name in (
        "JOB",
        "STORE",
        "NODE",
        "ADDRESS",
        "DOMAIN",
        "SUBMIT",
        "SECRET",
        "SECRET_FILE",
        "HEALTH",
        "LOG",
        "TERMINATION_LOG",
        "STORE_TLS",
        "STORE_USER",
        "STORE_USER_FILE",
        "STORE_PASSWORD",
        "STORE_PASSWORD_FILE",
        "STORE_CA",
        "STORE_CERT",
        "STORE_KEY",
    )
)


def job_id(name: str, uid: str) -> str:
    """The job's name in the rendezvous, at most 63 characters: a job made anew under an old name is another one."""
    suffix = uid.replace("-", "")[:8]
    return f"{name[: _NAME_MAX - len(suffix) - 1].rstrip('-')}-{suffix}"


def store_prefix(prefix: str, namespace: str) -> str:
    """Below which the jobs of a namespace lie in the rendezvous."""
    return "/".join(part for part in (prefix.strip("/"), namespace) if part)


def pod_name(job: str, index: int) -> str:
    """A pod is one node of the rendezvous, of the same name."""
    return f"{job}-{index}"


def secret_name(job: str) -> str:
    """Of the Secret that holds the job's secret, under the key `secret`."""
    return f"{job}-holdfast"


def config_name(job: str) -> str:
    """Of the ConfigMap that holds the job spec for the runtime, under the key `spec.yaml`."""
    return f"{job}-holdfast"

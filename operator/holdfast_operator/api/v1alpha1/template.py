"""The part of a PodTemplateSpec that the operator relies on; all else is the API server's to check, in each pod."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from holdfast_operator.api.v1alpha1.names import AGENT_CONTAINER, AGENT_ENV, RUN_FOLDER
from holdfast_operator.api.v1alpha1.section import Listed, Rule, Section

_AGENT = f"c.name == '{AGENT_CONTAINER}'"
_RESERVED_ENV = ", ".join(f"'{name}'" for name in AGENT_ENV)


class _Open(Section):
    """Kubernetes knows further fields, which are kept as they are."""

    model_config = ConfigDict(extra="allow")


class EnvVar(_Open):
    """One of a container's environment."""

    name: str = Field(min_length=1, max_length=512, description="its name")
    value: str | None = Field(default=None, description="a text: numbers and booleans are to be quoted")


class VolumeMount(_Open):
    """Where a container sees a volume."""

    mount_path: str = Field(min_length=1, max_length=1024, description="the folder")


class Container(_Open):
    """One of a pod's containers."""

    name: str = Field(
        min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", description="its name, a DNS label"
    )
    image: str | None = Field(default=None, description="its image")
    command: Listed[str] | None = Field(
        default=None, description="what it runs; of the agent's, the operator says that"
    )
    args: Listed[str] | None = Field(default=None, description="of its command")
    env: Annotated[tuple[EnvVar, ...], Field(strict=False)] | None = Field(
        default=None, max_length=256, description="environment variables, besides those that the operator sets"
    )
    volume_mounts: Annotated[tuple[VolumeMount, ...], Field(strict=False)] | None = Field(
        default=None, max_length=128, description="volumes, besides those that the operator mounts"
    )


class PodSpec(_Open):
    """What a pod runs."""

    containers: Annotated[tuple[Container, ...], Field(strict=False)] = Field(
        min_length=1,
        max_length=16,
        description=f"one of them, {AGENT_CONTAINER}, runs the agent",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    restart_policy: Literal["Never"] | None = Field(
        default=None, description="Never, or left out: the operator replaces a pod that ended"
    )


class PodMetadata(_Open):
    """What a pod is labelled with."""

    labels: dict[str, str] | None = Field(default=None, max_length=128, description="labels of the pods")
    annotations: dict[str, str] | None = Field(default=None, max_length=256, description="annotations of the pods")


def _agent(template: "PodTemplate") -> Container | None:
    return next((found for found in template.spec.containers if found.name == AGENT_CONTAINER), None)


def _agent_keeps_its_command(template: "PodTemplate") -> bool:
    agent = _agent(template)
    return agent is None or (agent.command is None and agent.args is None)


def _agent_keeps_its_environment(template: "PodTemplate") -> bool:
    agent = _agent(template)
    return agent is None or not any(variable.name in AGENT_ENV for variable in agent.env or ())


def _agent_keeps_its_folder(template: "PodTemplate") -> bool:
    agent = _agent(template)
    return agent is None or not any(
        f"{mount.mount_path}/".startswith(f"{RUN_FOLDER}/") for mount in agent.volume_mounts or ()
    )


class PodTemplate(_Open):
    """What the job's pods are made from."""

    metadata: PodMetadata | None = Field(default=None, description="labels and annotations of the pods")
    spec: PodSpec = Field(description="PodSpec")

    rules = (
        Rule(
            cel=f"self.spec.containers.exists(c, {_AGENT})",
            holds=lambda template: _agent(template) is not None,
            field="spec.containers",
            message=f"should have a container named {AGENT_CONTAINER}, in which the agent runs",
            reason="FieldValueRequired",
        ),
        Rule(
            cel=f"self.spec.containers.all(c, !({_AGENT}) || (!has(c.command) && !has(c.args)))",
            holds=_agent_keeps_its_command,
            field="spec.containers",
            message=f"should give the container {AGENT_CONTAINER} no command or args; another command is spec.command",
            reason="FieldValueForbidden",
        ),
        Rule(
            cel=f"self.spec.containers.all(c, !({_AGENT}) || !has(c.env)"
            f" || c.env.all(e, !(e.name in [{_RESERVED_ENV}])))",
            holds=_agent_keeps_its_environment,
            field="spec.containers",
            message=f"should not set what the operator sets in the environment of {AGENT_CONTAINER}: "
            + ", ".join(AGENT_ENV),
            reason="FieldValueForbidden",
        ),
        Rule(
            cel=f"self.spec.containers.all(c, !({_AGENT}) || !has(c.volumeMounts)"
            f" || c.volumeMounts.all(m, !(m.mountPath + '/').startsWith('{RUN_FOLDER}/')))",
            holds=_agent_keeps_its_folder,
            field="spec.containers",
            message=f"should mount nothing at or below {RUN_FOLDER}, which is the operator's",
            reason="FieldValueForbidden",
        ),
    )


def _checked(template: dict[str, Any]) -> dict[str, Any]:
    PodTemplate.model_validate(template)
    return template


class _AsPodTemplate:
    """Gives the CRD the schema of the part that is known."""

    @classmethod
    def __get_pydantic_json_schema__(cls, _: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(PodTemplate.__pydantic_core_schema__)


# Checked, and yet passed on just as it was written.
Template = Annotated[dict[str, Any], AfterValidator(_checked), _AsPodTemplate()]

"""Names of what stands in the rendezvous store."""

from dataclasses import dataclass, field

from holdfast.model.ids import NodeId
from holdfast.model.records import Version


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Keys of one job."""

    job: str
    prefix: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "prefix", f"jobs/{self.job}/")

    def node(self, node: NodeId) -> str:
        return f"{self.prefix}nodes/{node}"

    def claim(self, node: NodeId) -> str:
        return f"{self.prefix}claims/{node}"

    def drain(self, node: NodeId) -> str:
        return f"{self.prefix}drains/{node}"

    def ack(self, generation: int, node: NodeId) -> str:
        return f"{self.prefix}acks/{generation}/{node}"

    def start(self, generation: int) -> str:
        return f"{self.prefix}start/{generation}"

    def suspect(self, generation: int, node: NodeId) -> str:
        return f"{self.prefix}suspects/{generation}/{node}"

    def pace(self, generation: int, node: NodeId) -> str:
        return f"{self.prefix}paces/{generation}/{node}"

    def reach(self, node: NodeId) -> str:
        return f"{self.prefix}reach/{node}"

    @property
    def uploads(self) -> str:
        return f"{self.prefix}uploads/"

    def upload(self, version: Version, node: NodeId) -> str:
        return f"{self.uploads}{version.step}-{version.generation}/{node}"

    def version_of_upload(self, key: str) -> Version:
        """Raises: ValueError: not a key that `upload` makes."""
        step, _, generation = key.removeprefix(self.uploads).partition("/")[0].partition("-")
        return Version(int(step), int(generation))

    def pardon(self, node: NodeId) -> str:
        return f"{self.prefix}pardons/{node}"

    def one(self, name: str) -> str:
        """spec, leader, generation, progress, checkpoints, failure, stop or outcome."""
        return f"{self.prefix}{name}"

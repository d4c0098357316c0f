"""What can go wrong, a class each. A fault knows nothing of the load that it strikes."""

from abc import ABC, abstractmethod

#: Command ids that begin like this belong in the dead letter queue. Whatever else is there is a finding.
CONDEMNED = "condemned-"


class Fault(ABC):
    """Something that happens to a running service, and is over afterwards."""

    #: As the report shows it: "worker killed", "primary cut off" …
    name: str

    @abstractmethod
    async def strike(self) -> None:
        """Do it, and hold it for as long as it takes to be felt."""

    @abstractmethod
    async def heal(self) -> None:
        """Undo what is left of it, and return when all servers that it touched are up. Repeating it is harmless."""

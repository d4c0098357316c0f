"""The contract suite on our own stores."""

from holdfast.contract.suite import *  # noqa: F403

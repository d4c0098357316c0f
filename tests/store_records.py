"""Records for tests of stores: those of the contract suite."""

from holdfast.contract.records import TIME, deleted, new_id, refused, saved

__all__ = ["TIME", "deleted", "new_id", "refused", "saved"]

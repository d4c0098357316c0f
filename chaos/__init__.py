"""The proof under faults: load whose every call is recorded, faults, and the checks of what came of it."""

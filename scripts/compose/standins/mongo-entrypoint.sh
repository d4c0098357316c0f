#!/bin/sh
# The official entry point, started as a user that is not root and without MONGO_INITDB_*, runs its arguments.
set -eu
exec "$@"

#!/bin/sh
# Writes the replica set's key file where only this user can read it (a tmpfs: it is gone with the container),
# then starts what it was given through the image's own entry point.
set -eu
key=/data/configdb/replica.key
umask 077
rm -f "$key"
printf '%s\n' "${MONGO_REPLICA_KEY:?is required}" > "$key"
chmod 400 "$key"
unset MONGO_REPLICA_KEY
# Engines give 1,024 open files to start with; mongod wants 64,000. What the hard limit allows, up to that, we may take.
hard=$(ulimit -H -n)
if [ "$hard" = unlimited ] || [ "$hard" -gt 65536 ]; then hard=65536; fi
ulimit -S -n "$hard"
exec docker-entrypoint.sh "$@" --keyFile "$key"

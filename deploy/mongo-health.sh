#!/bin/bash
# Succeeds if mongod answers a command: {hello: 1}, which needs no login, as the 52 bytes of an OP_MSG.
#
# mongosh would be the usual way. It starts a JavaScript engine, about a second of processor time for every check
# and for ever. That there is a primary as well, mongo-init makes sure of before any worker starts.
set -eu
exec 3<>/dev/tcp/127.0.0.1/27017
# length, request id, response to, opcode 2013; flags, section kind 0
printf '\x34\0\0\0\x01\0\0\0\0\0\0\0\xdd\x07\0\0\0\0\0\0\0' >&3
# BSON: length, int32 "hello" = 1, string "$db" = "admin", end
printf '\x1f\0\0\0\x10hello\0\x01\0\0\0\x02$db\0\x06\0\0\0admin\0\0' >&3
# The header of the answer is enough; the check's own timeout ends the wait for one that does not come.
[ "$(head -c 16 <&3 | wc -c)" -eq 16 ]

#!/bin/sh
# Starts Redis with the password of REDISCLI_AUTH, which is kept out of its command line.
set -eu
exec redis-server - "$@" <<CONF
requirepass $REDISCLI_AUTH
maxmemory-policy noeviction
CONF

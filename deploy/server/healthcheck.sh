#!/usr/bin/env bash
# Honest health: the server says that it and its database are up, and a request that reads the
# database is answered. An open port, or `/health`, would say yes without a database.
set -euo pipefail

base=http://127.0.0.1:8080
health=$(curl -sS -m 5 "$base/actuator/health")
case $health in
  '{"status":"UP"'* | *'"status":"UP"}') ;;
  *)
    printf 'not up: %.300s\n' "$health"
    exit 1
    ;;
esac
curl -fsS -m 5 -o /dev/null "$base/api/metadata/taskdefs"

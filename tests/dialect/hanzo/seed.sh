#!/usr/bin/env bash
# The curl commands of the API's documentation, word for word but for the host, the token and the ids. Each is followed
# by the status that it has to have; the statuses are printed, and what is wrong with one goes to stderr.
set -euo pipefail
body="$(mktemp)"
trap 'rm -f "$body"' EXIT

# curl, told where to leave the answer; prints the status.
ask() {
  local status
  status="$(curl --silent --show-error --noproxy '*' --max-time 60 --output "$body" --write-out '%{http_code}' "$@")"
  case "$status" in 2*) ;; *) cat "$body" >&2 ;; esac
  echo "$status"
}

# Until the machine has that status.
until_it_is() {
  local tries
  for tries in $(seq 200); do
    ask "$URL/api/vm.one?vmId=$VM" -H "Authorization: Bearer $TOKEN" >/dev/null
    if grep -q "\"status\":\"$1\",\"createdAt\"" "$body"; then return; fi
    sleep 0.05
  done
  cat "$body" >&2
  return 1
}

ask -X POST $URL/api/vm.launch \
-H "Authorization: Bearer $TOKEN" \
-H "Content-Type: application/json" \
-d '{
"organizationId": "'$ORG'",
"name": "ml-training",
"plan": "power",
"region": "us-east",
"os": "ubuntu-22.04",
"sshKeys": ["ssh-ed25519 AAAA..."],
"userData": "#!/bin/bash\napt-get update && apt-get install -y docker.io"
}'
VM="$(sed 's/.*"id":"\(vm_[a-z0-9]*\)".*/\1/' "$body")"

ask "$URL/api/vm.all?organizationId=$ORG" \
-H "Authorization: Bearer $TOKEN"

until_it_is running
ask "$URL/api/vm.one?vmId=$VM" \
-H "Authorization: Bearer $TOKEN"

ask -X POST $URL/api/vm.attachVolume \
-H "Authorization: Bearer $TOKEN" \
-H "Content-Type: application/json" \
-d '{
"vmId": "'$VM'",
"volumeId": "'$VOLUME'",
"mountPath": "/mnt/data"
}'

ask "$URL/api/vm.volumes?vmId=$VM" \
-H "Authorization: Bearer $TOKEN"

ask -X POST $URL/api/vm.detachVolume \
-H "Authorization: Bearer $TOKEN" \
-H "Content-Type: application/json" \
-d '{
"vmId": "'$VM'",
"volumeId": "'$VOLUME'"
}'

ask -X POST $URL/api/vm.restart \
-H "Authorization: Bearer $TOKEN" \
-H "Content-Type: application/json" \
-d '{ "vmId": "'$VM'" }'

until_it_is running
ask -X POST $URL/api/vm.stop \
-H "Authorization: Bearer $TOKEN" \
-H "Content-Type: application/json" \
-d '{ "vmId": "'$VM'" }'

until_it_is stopped
ask -X POST $URL/api/vm.start \
-H "Authorization: Bearer $TOKEN" \
-H "Content-Type: application/json" \
-d '{ "vmId": "'$VM'" }'

until_it_is running
ask "$URL/api/vm.terminal?vmId=$VM" \
-H "Authorization: Bearer $TOKEN"

ask -X DELETE $URL/api/vm.destroy \
-H "Authorization: Bearer $TOKEN" \
-H "Content-Type: application/json" \
-d '{ "vmId": "'$VM'" }'

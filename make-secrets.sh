#!/usr/bin/env bash
# Makes the passwords and keys that docker-compose.yml mounts, each in a file of its own; those that are there stay.
# Usage: make-secrets.sh [FOLDER]
set -euo pipefail
folder=${1:-secrets}
install -d -m 700 "$folder"  # the folder keeps others out; containers, whose users differ, read the files
hex() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }
keep() {
  [ -e "$folder/$1" ] || (umask 222 && printf '%s\n' "$2" >"$folder/$1")
}
keep foretune_secret "$(hex 32)"
keep foretune_admin_key "ft_$(hex 6)_$(hex 32)"
keep foretune_database_password "$(hex 24)"
keep foretune_broker_password "$(hex 24)"
keep foretune_objects_access_key "$(hex 10)"
keep foretune_objects_secret_key "$(hex 20)"

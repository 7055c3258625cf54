#!/bin/sh
# What Vault's operator runs once for each cluster, with VAULT_ADDR and a token that may do it, and again when the
# cluster has other keys: the policy of authconfig, an auth method of type jwt that verifies this cluster's
# ServiceAccount tokens, and in it a role for authconfig alone.
#
#   setup.sh KEYS.pem      the cluster's public keys: README.md says where they come from
set -eu
mount=${MOUNT:-kubernetes}              # that authconfig keeps, without auth/
login=${LOGIN_MOUNT:-jwt}               # that authconfig logs in at: one for each cluster, and not the one it keeps
account=${SERVICE_ACCOUNT:-latchkey:latchkey-authconfig}   # namespace:name
audience=${AUDIENCE:-vault}             # the chart's authconfig.auth.audience
role=${ROLE:-latchkey-authconfig}       # the chart's authconfig.auth.role
fail() { echo "setup.sh: $1" >&2; exit 1; }

[ $# = 1 ] || fail "the file with the keys is missing: setup.sh KEYS.pem"
keys=$1
mount=${mount#auth/} login=${login#auth/}
[ "$mount" != "$login" ] || fail "auth/$mount is kept by authconfig, so it must not log in there (LOGIN_MOUNT)"
grep -q 'BEGIN PUBLIC KEY' "$keys" || fail "$keys holds no public key: authconfig keys prints them"
hcl=$(dirname "$0")/policy.hcl
description="logins of the authconfig that keeps auth/$mount"
policy=latchkey-authconfig-$(echo "$mount" | tr / -)

# A mount that somebody else uses stays as it is.
found=$(vault auth list -format=table) || fail "Vault does not show its auth mounts: are VAULT_ADDR and VAULT_TOKEN right?"
found=$(echo "$found" | grep "^$login/ " || true)
case "$found " in
' ') vault auth enable -path="$login" -description="$description" jwt ;;
*" $description "*) ;;
*) fail "auth/$login is there, and its description is not \"$description\": somebody else uses it, so choose another path (LOGIN_MOUNT)" ;;
esac

sed "s|auth/kubernetes|auth/$mount|" "$hcl" | vault policy write "$policy" -

# All keys of the file: while a cluster changes its keys it has two.
awk 'BEGIN { printf "{\"jwt_validation_pubkeys\":[" }
     /-----BEGIN/ { printf "%s\"", sep; sep = ","; inside = 1 }
     inside { printf "%s\\n", $0 }
     /-----END/ { printf "\""; inside = 0 }
     END { print "]}" }' "$keys" | vault write "auth/$login/config" -

vault write "auth/$login/role/$role" role_type=jwt user_claim=sub \
    bound_audiences="$audience" bound_subject="system:serviceaccount:$account" \
    token_policies="$policy" token_ttl=30m token_max_ttl=30m

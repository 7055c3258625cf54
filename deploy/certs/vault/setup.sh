#!/bin/sh
# What Vault's operator runs once, with VAULT_ADDR and a token that may do it.
# The auth method `kubernetes` is there already: Latchkey's agents log in with it.
set -eu
cd "$(dirname "$0")"

vault secrets enable -path=pki-latchkey -max-lease-ttl=26280h pki
vault write pki-latchkey/root/generate/internal common_name=latchkey-root key_type=ec ttl=26280h

# One name, one use, and no more than the chart's certs.duration.
vault write pki-latchkey/roles/injector \
    allowed_domains=latchkey-injector.latchkey.svc allow_bare_domains=true allow_ip_sans=false \
    key_type=ec server_flag=true client_flag=false max_ttl=2160h

vault policy write latchkey-injector-issuer policy.hcl
vault write auth/kubernetes/role/latchkey-injector-issuer \
    bound_service_account_names=latchkey-injector-issuer bound_service_account_namespaces=latchkey \
    audience=vault://latchkey/latchkey-vault \
    token_policies=latchkey-injector-issuer token_no_default_policy=true token_ttl=1m token_max_ttl=5m

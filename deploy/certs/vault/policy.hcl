# Sign what the role allows, which is the injector's one name. Nothing is read,
# and no key leaves Vault or the cluster.
path "pki-latchkey/sign/injector" {
  capabilities = ["update"]
}

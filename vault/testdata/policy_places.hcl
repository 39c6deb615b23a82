# The least that the broker needs. To apply it:
#
#   vault secrets enable -path=tokenbroker -version=2 kv
#   vault policy write tokenbroker tokenbroker.hcl
#   vault auth enable approle
#   vault write auth/approle/role/tokenbroker token_policies=tokenbroker \
#     token_no_default_policy=true token_ttl=20m token_max_ttl=4h
#   vault read -field=role_id auth/approle/role/tokenbroker/role-id > role-id
#   vault write -f -field=secret_id auth/approle/role/tokenbroker/secret-id > secret-id
#
# Leave token_num_uses at 0: each call uses the token. The broker logs in again
# whenever one reaches its token_max_ttl, which takes one of secret_id_num_uses.
#
# It grants no delete, no undelete, no patch and no write of metadata: none of
# those is check-and-set, so they could undo what another replica has decided.

# Read records, and write them by check-and-set: create for a new key, update
# for one that exists.
path "tokenbroker/data/*" {
  capabilities = ["create", "read", "update"]
}

# List keys, and tell a value that was deleted, destroyed or pushed out from one
# that never was.
path "tokenbroker/metadata/*" {
  capabilities = ["list", "read"]
}

# Destroy the value of a retired secret for good. Its metadata stays, so that
# nobody can create another value in its place.
path "tokenbroker/destroy/*" {
  capabilities = ["update"]
}

# Make sure that the mount does not delete versions after a time.
path "tokenbroker/config" {
  capabilities = ["read"]
}

# Tell a dead token from a denial by policy: Vault answers 403 to both.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}

# Renew the broker's own token.
path "auth/token/renew-self" {
  capabilities = ["update"]
}

# Name the capability that is missing when a path is denied.
path "sys/capabilities-self" {
  capabilities = ["update"]
}

# See where a response-wrapping token was made before it is unwrapped: one that
# was wrapped again on the way was made elsewhere. Unwrapping itself is done with
# the wrapping token, whose own policy permits that.
path "sys/wrapping/lookup" {
  capabilities = ["update"]
}

# Read the secrets of others that clients may refer to, and which version of each is
# the latest. Nothing is written there.
path "crm/kv/data/oauth" {
  capabilities = ["read"]
}
path "crm/kv/data/oauth/*" {
  capabilities = ["read"]
}
path "crm/kv/metadata/oauth" {
  capabilities = ["read"]
}
path "crm/kv/metadata/oauth/*" {
  capabilities = ["read"]
}
path "secrets/data/*" {
  capabilities = ["read"]
}
path "secrets/metadata/*" {
  capabilities = ["read"]
}

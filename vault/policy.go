package vault

import (
	"fmt"
	"strings"
)

// Policy returns the least policy, in HCL, under which a [Store] with this mount
// and prefix works and its [References] read in the given places, each line with its
// reason. All must be such as [Config.Validate] and [Sources.Validate] accept; prefix
// may be empty. The head says how to apply it.
func Policy(mount, prefix string, places ...Place) string {
	below := func(tree string) string {
		if prefix == "" {
			return mount + "/" + tree + "/*"
		}
		return mount + "/" + tree + "/" + prefix + "/*"
	}
	policy := strings.NewReplacer(
		"MOUNT", mount,
		"DATA", below("data"),
		"METADATA", below("metadata"),
		"DESTROY", below("destroy"),
	).Replace(policyTemplate)
	for i, place := range places {
		if i == 0 {
			policy += referencesHead
		}
		policy += place.policy()
	}
	return policy
}

const referencesHead = `
# Read the secrets of others that clients may refer to, and which version of each is
# the latest. Nothing is written there.
`

// policy returns the part of a policy that lets a place be read.
func (p Place) policy() string {
	var b strings.Builder
	for _, tree := range []string{"data", "metadata"} {
		paths := []string{p.path(tree), p.path(tree) + "/*"}
		if p.Prefix == "" {
			paths = paths[1:]
		}
		for _, path := range paths {
			fmt.Fprintf(&b, "path %q {\n  capabilities = [\"read\"]\n}\n", path)
		}
	}
	return b.String()
}

const policyTemplate = `# The least that the broker needs. To apply it:
#
#   vault secrets enable -path=MOUNT -version=2 kv
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
path "DATA" {
  capabilities = ["create", "read", "update"]
}

# List keys, and tell a value that was deleted, destroyed or pushed out from one
# that never was.
path "METADATA" {
  capabilities = ["list", "read"]
}

# Destroy the value of a retired secret for good. Its metadata stays, so that
# nobody can create another value in its place.
path "DESTROY" {
  capabilities = ["update"]
}

# Make sure that the mount does not delete versions after a time.
path "MOUNT/config" {
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
`

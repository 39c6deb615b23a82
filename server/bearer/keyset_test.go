package bearer_test

import (
	"encoding/base64"
	"fmt"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/tokenbroker/tokenbroker/server/bearer"
)

// TestWhichKeysAreOfUse: what a set should not hold is dropped, and the rest is used.
func TestWhichKeysAreOfUse(t *testing.T) {
	k := testKeys()
	rsaKey := func(changes members) members {
		public := members{
			"kty": "RSA", "kid": "odd", "n": base64.RawURLEncoding.EncodeToString(k.rsa.N.Bytes()), "e": "AQAB",
		}
		return public.with(changes)
	}
	asMembers := func(key jose.JSONWebKey) members {
		m := members{"kty": "EC", "crv": "P-256", "kid": key.KeyID}
		point, err := k.p256.PublicKey.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		m["x"], m["y"] = base64.RawURLEncoding.EncodeToString(point[1:33]), base64.RawURLEncoding.EncodeToString(point[33:])
		return m
	}(jwk(nil, "odd"))
	number := func(of []byte) string { return base64.RawURLEncoding.EncodeToString(of) }
	tests := []struct {
		name string
		key  any
		used bool
	}{
		{"no use", rsaKey(nil), true},
		{"use sig", rsaKey(members{"use": "sig"}), true},
		{"use enc", rsaKey(members{"use": "enc"}), false},
		{"use is a list", rsaKey(members{"use": []string{"sig"}}), false},
		{"for verifying", rsaKey(members{"key_ops": []string{"verify"}}), true},
		{"for encrypting", rsaKey(members{"key_ops": []string{"encrypt", "wrapKey"}}), false},
		{"key_ops of objects", rsaKey(members{"key_ops": []any{members{}}}), false},
		{"alg RS256", rsaKey(members{"alg": "RS256"}), true},
		{"alg of another algorithm", rsaKey(members{"alg": "PS256"}), false}, // for the RS256 token below
		{"alg that contradicts", rsaKey(members{"alg": "ES256"}), false},
		{"alg HS256", rsaKey(members{"alg": "HS256"}), false},
		{"alg none", rsaKey(members{"alg": "none"}), false},
		{"alg for encryption", rsaKey(members{"alg": "RSA-OAEP"}), false},
		{"certificates beside it", rsaKey(members{"x5c": []string{"garbage"}, "x5t": "x", "x5u": "::"}), true},
		{"unknown members", rsaKey(members{"x-more": members{"a": 1}}), true},
		{"kid is a number", rsaKey(members{"kid": 1}), false},
		{"no kty", rsaKey(members{"kty": nil}), false},
		{"unknown kty", rsaKey(members{"kty": "lattice"}), false},
		{"no modulus", rsaKey(members{"n": nil}), false},
		{"RSA of 1024 bits", rsaKey(members{"n": number(k.smallRSA.N.Bytes())}), false},
		{"RSA of 64 KiB", rsaKey(members{"n": number(make([]byte, 64<<10))}), false},
		{"exponent 1", rsaKey(members{"e": "AQ"}), false},
		{"exponent 2", rsaKey(members{"e": "Ag"}), false},
		{"private RSA", jwk(k.rsa, "odd"), false},
		{"private by one member", rsaKey(members{"d": ""}), false},
		{"private EC", jwk(k.p256, "odd"), false},
		{"symmetric", jose.JSONWebKey{Key: []byte("0123456789abcdef0123456789abcdef"), KeyID: "odd"}, false},
		{"symmetric in disguise", rsaKey(members{"k": "c2VjcmV0"}), false},
		{"text", "key", false},
		{"null", nil, false},
		{"a point off the curve", asMembers.with(members{"y": number(make([]byte, 32))}), false},
		{"a curve that is none", asMembers.with(members{"crv": "P-224"}), false},
		{"OKP for key agreement", members{"kty": "OKP", "crv": "X25519", "kid": "odd", "x": number(make([]byte, 32))}, false},
		{"short Ed25519", members{"kty": "OKP", "crv": "Ed25519", "kid": "odd", "x": number(make([]byte, 16))}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			set := fmt.Sprintf(`{"keys":[%s,%s]}`, encodeJSON(t, test.key), encodeJSON(t, jwk(k.p384.Public(), "good")))
			v := withFile(t, set)
			token := compact(t, members{"alg": "RS256", "kid": "odd"}, goodClaims(), withRSA(t, k.rsa))
			if test.used {
				wantGood(t, v, token)
			} else {
				wantRefused(t, v, token, bearer.UnknownKey)
			}
			want := 1
			if test.used || test.name == "alg of another algorithm" {
				want = 2
			}
			if got := v.Status()[0].Keys; got != want {
				t.Errorf("got %d keys in force, want %d", got, want)
			}
		})
	}
}

// TestKeyListedTwice: the same key under the same name is one.
func TestKeyListedTwice(t *testing.T) {
	k := testKeys()
	v := withFile(t, jwkSet(t, jwk(k.rsa.Public(), "rsa"), jwk(k.rsa.Public(), "rsa")))
	wantGood(t, v, goodToken(t))
	if v.Status()[0].Keys != 1 {
		t.Errorf("got %d keys, want 1", v.Status()[0].Keys)
	}
}

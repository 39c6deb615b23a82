package main

import (
	"time"

	"github.com/tokenbroker/tokenbroker/oauth"
)

// checkProof judges a caller's proof by this host's clock.
func checkProof(proof, endpoint string) (thumbprint string, err error) {
	return oauth.CheckDPoPProof(proof, endpoint, time.Now())
}

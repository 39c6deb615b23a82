package client

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// DPoPKey is the key that a caller's tokens are bound to (RFC 9449), for clients whose
// token_binding says so. It stays here: the broker, the authorization server and APIs
// are sent proofs that are made with it, each for one request. Make it with [NewDPoPKey]
// and use one for all: a token is bound to one key. It is safe for concurrent use.
type DPoPKey struct {
	signer     jose.Signer
	thumbprint string

	mu sync.Mutex // guards what follows
	// targets are the token endpoints that proofs for the broker are for :: client → URL
	targets map[string]string
	// nonces are those that servers asked for last :: origin → nonce
	nonces map[string]string
}

// maxRemembered bounds what a key remembers of clients and of servers; what is forgotten
// is asked for again.
const maxRemembered = 1024

// NewDPoPKey returns a key of RSA (2048 bits at least), ECDSA (P-256, P-384, P-521) or
// Ed25519; the error says that it is none. A new one, by ecdsa.GenerateKey, for each
// start of a program is well: its tokens are then asked for again.
func NewDPoPKey(key crypto.Signer) (*DPoPKey, error) {
	algorithm := jose.SignatureAlgorithm("")
	switch k := key.(type) {
	case *rsa.PrivateKey:
		if k.N.BitLen() >= 2048 {
			algorithm = jose.PS256
		}
	case *ecdsa.PrivateKey:
		algorithm = map[elliptic.Curve]jose.SignatureAlgorithm{elliptic.P256(): jose.ES256, elliptic.P384(): jose.ES384, elliptic.P521(): jose.ES512}[k.Curve]
	case ed25519.PrivateKey:
		algorithm = jose.EdDSA
	}
	if algorithm == "" {
		return nil, errors.New("tokenbroker: a DPoP key is RSA with 2048 bits at least, ECDSA on P-256, P-384 or P-521, or Ed25519")
	}
	options := (&jose.SignerOptions{EmbedJWK: true}).WithType("dpop+jwt")
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, options)
	if err != nil {
		return nil, errors.New("tokenbroker: the DPoP key cannot sign")
	}
	sum, err := (&jose.JSONWebKey{Key: key.Public()}).Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, errors.New("tokenbroker: the DPoP key has no thumbprint")
	}
	return &DPoPKey{
		signer: signer, thumbprint: base64.RawURLEncoding.EncodeToString(sum), targets: map[string]string{}, nonces: map[string]string{},
	}, nil
}

// WithDPoP brings proofs of key to the broker, for clients whose tokens are bound to it,
// and makes [Source.RoundTripper] bring them to APIs. Calls are then not repeated where
// the broker answered UNAVAILABLE: a proof is good for one request, and the broker may
// have used it.
func WithDPoP(key *DPoPKey) Option { return func(s *settings) { s.dpop = key } }

// Thumbprint returns what tokens are bound to (RFC 7638, SHA-256, base64url): their
// claim cnf.jkt.
func (k *DPoPKey) Thumbprint() string { return k.thumbprint }

// Format writes the type's name and the thumbprint, whatever the verb.
func (k *DPoPKey) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "client.DPoPKey("+k.thumbprint+")")
}

// proof makes one for a request (RFC 9449 §4.2). token is "" where none goes with it.
func (k *DPoPKey) proof(method, target, nonce, token string) (string, error) {
	claims := map[string]any{"htm": method, "htu": target, "iat": time.Now().Unix(), "jti": rand.Text()}
	if nonce != "" {
		claims["nonce"] = nonce
	}
	if token != "" {
		sum := sha256.Sum256([]byte(token))
		claims["ath"] = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("tokenbroker: encode a DPoP proof: %w", err)
	}
	signed, err := k.signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("tokenbroker: sign a DPoP proof: %w", err)
	}
	return signed.CompactSerialize()
}

// mostProofs is how many proofs one call may take: one for an endpoint that was not
// known or has changed, and one for the nonce that it wants.
const mostProofs = 3

// getToken makes the call, with a proof as soon as it is known that one is wanted and
// for where. What the broker says about that is remembered.
func (k *DPoPKey) getToken(ctx context.Context, request *pb.GetTokenRequest, call func(context.Context, *pb.GetTokenRequest) (*pb.GetTokenResponse, error)) (*pb.GetTokenResponse, error) {
	seen := map[Reason]bool{}
	for tries := 0; ; tries++ {
		target, nonce := k.recall(request.GetClient())
		request.DpopProof = ""
		if target != "" {
			proof, err := k.proof(http.MethodPost, target, nonce, "")
			if err != nil {
				return nil, err
			}
			request.DpopProof = proof
		}
		response, err := call(ctx, request)
		if err == nil {
			return response, nil
		}
		e := errorOf(err)
		again := k.learn(request.GetClient(), target, e) && !seen[e.Reason]
		if seen[e.Reason] = true; !again || tries == mostProofs-1 {
			return nil, err
		}
	}
}

// recall returns where a client's proofs are for, "" if that is not known, and the nonce
// that is wanted there.
func (k *DPoPKey) recall(client string) (target, nonce string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	target = k.targets[client]
	return target, k.nonces[originOfText(target)]
}

// learn takes from an error what the next proof needs, and reports whether that may help.
func (k *DPoPKey) learn(client, target string, e *Error) bool {
	htu, nonce := e.Metadata["htu"], e.Metadata["dpop_nonce"]
	k.mu.Lock()
	defer k.mu.Unlock()
	switch e.Reason {
	case ReasonDPoPProofRequired, ReasonDPoPProofInvalid:
		if htu == "" || htu == target {
			return false
		}
		remember(k.targets, client, htu)
	case ReasonDPoPNonceRequired:
		if nonce == "" || htu == "" {
			return false
		}
		remember(k.targets, client, htu)
		remember(k.nonces, originOfText(htu), nonce)
	default:
		return false
	}
	return true
}

// authorize puts a bound token and a proof for this request into its header (RFC 9449
// §7.1).
func (k *DPoPKey) authorize(request *http.Request, token *Token) error {
	k.mu.Lock()
	nonce := k.nonces[originOf(request.URL)]
	k.mu.Unlock()
	target := url.URL{Scheme: request.URL.Scheme, Host: request.URL.Host, Path: request.URL.Path, RawPath: request.URL.RawPath}
	method := request.Method
	if method == "" {
		method = http.MethodGet
	}
	proof, err := k.proof(method, target.String(), nonce, token.Access.Reveal())
	if err != nil {
		return err
	}
	request.Header.Set("DPoP", proof)
	return nil
}

// heed remembers the nonce that an API's answer brings (RFC 9449 §8.2), and reports
// whether the request was refused for want of it (§9).
func (k *DPoPKey) heed(at *url.URL, response *http.Response) bool {
	nonce := response.Header.Get("DPoP-Nonce")
	if nonce == "" {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	wanted := k.nonces[originOf(at)] != nonce
	remember(k.nonces, originOf(at), nonce)
	return wanted && challenges(response, "use_dpop_nonce", "DPoP")
}

// remember forgets all others where there are too many.
func remember(known map[string]string, key, value string) {
	if _, there := known[key]; !there && len(known) >= maxRemembered {
		clear(known)
	}
	known[key] = value
}

func originOfText(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" {
		return ""
	}
	return originOf(u)
}

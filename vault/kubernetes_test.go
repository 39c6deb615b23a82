package vault_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// signer makes JWTs.
type signer struct {
	t   *testing.T
	key *ecdsa.PrivateKey
}

func newSigner(t *testing.T) *signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &signer{t, key}
}

// publicKey returns it as PEM.
func (s *signer) publicKey() string {
	s.t.Helper()
	der, err := x509.MarshalPKIXPublicKey(s.key.Public())
	if err != nil {
		s.t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// sign returns a JWT of an hour's life, with changes to its claims.
func (s *signer) sign(claims, changes map[string]any) string {
	s.t.Helper()
	all := map[string]any{"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix()}
	for _, list := range []map[string]any{claims, changes} {
		for name, value := range list {
			all[name] = value
		}
	}
	by, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: s.key}, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	text, err := jwt.Signed(by).Claims(all).Serialize()
	if err != nil {
		s.t.Fatal(err)
	}
	return text
}

const reviewerJWT = "reviewer-canary"

// kubeAPI is the one endpoint of a Kubernetes API server that Vault's method
// calls: TokenReview. It vouches for tokens that its signer signed.
type kubeAPI struct {
	*httptest.Server
	*signer
}

func newKubeAPI(t *testing.T) *kubeAPI {
	t.Helper()
	k := &kubeAPI{signer: newSigner(t)}
	k.Server = httptest.NewUnstartedServer(k)
	k.Config.ErrorLog = log.New(io.Discard, "", 0)
	k.StartTLS()
	t.Cleanup(k.Close)
	return k
}

// caPEM returns the authority of its certificate.
func (k *kubeAPI) caPEM() string {
	return pemOf(k.Certificate())
}

// serviceAccount returns a projected token of a service account.
func (k *kubeAPI) serviceAccount(namespace, name string, changes map[string]any) string {
	return k.sign(map[string]any{
		"iss": "https://kubernetes.default.svc.cluster.local", "aud": []string{"vault"},
		"sub": "system:serviceaccount:" + namespace + ":" + name,
		"kubernetes.io": map[string]any{
			"namespace": namespace, "serviceaccount": map[string]string{"name": name, "uid": "uid-of-" + name},
		},
	}, changes)
}

// ServeHTTP implements http.Handler.
func (k *kubeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var review struct {
		Spec struct {
			Token     string
			Audiences []string
		}
	}
	switch {
	case r.Method != http.MethodPost || r.URL.Path != "/apis/authentication.k8s.io/v1/tokenreviews":
		http.Error(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","code":404}`, http.StatusNotFound)
		return
	case r.Header.Get("Authorization") != "Bearer "+reviewerJWT:
		http.Error(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","code":401}`, http.StatusUnauthorized)
		return
	case r.Header.Get("Content-Type") != "application/json", json.NewDecoder(r.Body).Decode(&review) != nil, review.Spec.Token == "":
		http.Error(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","code":400}`, http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "status": k.review(review.Spec.Token),
	})
}

// review says whom a token stands for.
func (k *kubeAPI) review(token string) map[string]any {
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return map[string]any{"error": "not a token"}
	}
	var claims struct {
		jwt.Claims
		Kubernetes struct {
			ServiceAccount struct {
				UID string `json:"uid"`
			} `json:"serviceaccount"` // go-jose tells case apart
		} `json:"kubernetes.io"`
	}
	if parsed.Claims(k.key.Public(), &claims) != nil || claims.Validate(jwt.Expected{Time: time.Now()}) != nil {
		return map[string]any{"authenticated": false}
	}
	return map[string]any{
		"authenticated": true, "audiences": []string(claims.Audience),
		"user": map[string]string{"username": claims.Subject, "uid": claims.Kubernetes.ServiceAccount.UID},
	}
}

func pemOf(certificate *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw}))
}

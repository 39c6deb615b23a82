package vault

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/hashicorp/vault/api"
)

// newAPIClient returns a client of Vault's library that depends on config alone.
//
// The library reads the environment in four places. DefaultConfig: address, CA,
// certificates, retries, timeout, rate limit, proxy, SRV lookup; we do not use
// its result. NewClient: VAULT_TOKEN, VAULT_NAMESPACE and VAULT_HEADERS, all
// undone below. Each request: VAULT_WRAP_TTL, replaced by our own function. And
// NewClient calls DefaultConfig even so, hence fails on a variable that cannot
// be parsed: that is the one thing a stray variable can do, and the error says
// so. Their values are not quoted: a proxy's URL may hold a password.
func newAPIClient(config Config, httpClient *http.Client) (*api.Client, error) {
	client, err := api.NewClient(&api.Config{
		Address:    config.Address,
		HttpClient: httpClient,
		// The defaults repeat writes: then a write whose first answer was lost
		// ends as a mismatch although it took effect.
		MaxRetries: 0,
		CheckRetry: func(context.Context, *http.Response, error) (bool, error) { return false, nil },
		// The http.Client has the timeout. One set here would be cancelled before
		// the body of a raw write's answer can be read (logical.go, writeRaw).
		Timeout:          0,
		DisableRedirects: true,
		// Sends X-Vault-Index once a server has sent one, which only Enterprise
		// does: reads then see our writes on performance standbys too.
		ReadYourWrites: true,
	})
	if err != nil {
		return nil, fmt.Errorf("vault: the environment holds a VAULT_* variable that Vault's library cannot parse; "+
			"the broker uses none of them, unset: %s", strings.Join(vaultVariables(), ", "))
	}
	client.ClearToken()
	client.SetHeaders(http.Header{api.RequestHeaderName: {"true"}})
	client.SetWrappingLookupFunc(func(string, string) string { return "" })
	if config.Namespace != "" {
		client.SetNamespace(strings.Trim(config.Namespace, "/"))
	}
	return client, nil
}

// vaultVariables returns the names of the VAULT_* variables that are set.
func vaultVariables() []string {
	var names []string
	for _, pair := range os.Environ() {
		if name, _, _ := strings.Cut(pair, "="); strings.HasPrefix(name, "VAULT_") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

package oauth

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
)

// What an endpoint is called in an error.
const (
	tokenEndpoint      = "the token endpoint"
	revocationEndpoint = "the revocation endpoint"
	managementEndpoint = "the management endpoint"

	authorizationEndpoint = "the authorization endpoint"
	deviceEndpoint        = "the device authorization endpoint"
	introspectionEndpoint = "the introspection endpoint"
	issuerURL             = "the issuer"
	apiEndpoint           = "the API endpoint"
)

// CheckEndpoint says whether a request to the token endpoint would be tried at
// all, with an UPSTREAM_ADDRESS_REFUSED error if not. It resolves no names: an
// address that only a resolver knows is checked when it is dialled, each time.
func (c *Client) CheckEndpoint(endpoint string) error {
	_, err := c.parseEndpoint(tokenEndpoint, endpoint)
	return err
}

// boundEndpoint returns the endpoint if the secret is bound to its origin. The
// binding is checked first: it holds whatever the Client's configuration allows.
func (c *Client) boundEndpoint(name, raw string, destinations []string) (*url.URL, error) {
	origin, err := broker.Origin(raw)
	if err != nil {
		return nil, refusedEndpoint("%s %v", name, err)
	}
	if !slices.Contains(destinations, origin) {
		return nil, &broker.Error{
			Reason: broker.ReasonDestinationNotBound, Op: op,
			Detail: fmt.Sprintf("the endpoint's origin is %s, the secret is bound to %s", origin, strings.Join(destinations, ", ")),
		}
	}
	return c.parseEndpoint(name, raw)
}

func (c *Client) parseEndpoint(name, raw string) (*url.URL, error) {
	u, err := c.door.Parse(strings.TrimPrefix(name, "the "), raw)
	if err != nil {
		return nil, refusedEndpoint("%v", err)
	}
	return u, nil
}

// originOf returns scheme, host and port: all that an error may say of a URL.
func originOf(u *url.URL) string {
	origin, err := broker.Origin((&url.URL{Scheme: u.Scheme, Host: u.Host}).String())
	if err != nil {
		return "an unnamed origin"
	}
	return origin
}

func refusedEndpoint(format string, args ...any) *broker.Error {
	return &broker.Error{Reason: broker.ReasonUpstreamAddressRefused, Op: op, Detail: fmt.Sprintf(format, args...)}
}

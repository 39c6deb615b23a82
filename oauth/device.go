package oauth

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

const (
	// deviceOp is what errors call the beginning of a consent on another device.
	deviceOp = "authorize device"
	// Bounds on what a device authorization answers: a person types the user code, and a
	// browser opens the URIs.
	maxDeviceCode = 8 << 10
	maxUserCode   = 64
	maxURI        = 2 << 10
	maxDeviceLife = 24 * time.Hour
	// defaultInterval is RFC 8628 §3.2's.
	defaultInterval = 5 * time.Second
)

// AuthorizeDevice is [broker.AuthorizationServer]'s: one POST to the device authorization
// endpoint (RFC 8628 §3.1), with the client's authentication and parameters. Errors are
// those of [Client.RequestToken]; an answer without a code, a URI that a browser may be
// sent to, or an end is UPSTREAM_MALFORMED.
func (c *Client) AuthorizeDevice(ctx context.Context, req broker.TokenRequest) (broker.DeviceAuthorization, error) {
	endpoint, err := c.boundEndpoint(deviceEndpoint, req.Endpoint, req.Destinations)
	if err != nil {
		return broker.DeviceAuthorization{}, err
	}
	req.Grant = broker.GrantParameters{}
	spoken, err := c.dialectOf(req) // of errors; requests are as the RFC has them
	if err != nil {
		return broker.DeviceAuthorization{}, err
	}
	build := func(ctx context.Context) (*request, error) {
		form, err := deviceForm(req)
		if err != nil {
			return nil, err
		}
		out, err := post(ctx, endpoint, form, req)
		if err == nil {
			out.op, out.dialect = deviceOp, spoken
		}
		return out, err
	}
	var answered broker.DeviceAuthorization
	to := hop{endpoint: endpoint, authentication: req.Authentication, secret: req.Secret}
	err = c.exchange(ctx, to, new(progress), build, func(a *attempt, res *http.Response) (err error) {
		answered, err = c.deviceAuthorized(a, res)
		return err
	})
	return answered, err
}

func deviceForm(req broker.TokenRequest) (url.Values, error) {
	form := url.Values{}
	for _, name := range slices.Sorted(maps.Keys(req.Parameters)) {
		if broker.ReservedParameter(name) {
			return nil, broker.Invalid("parameters", "%q is a parameter that the broker sends itself or that carries a credential", name)
		}
		form.Set(name, req.Parameters[name])
	}
	form.Set("client_id", req.ClientID) // REQUIRED of all that do not authenticate by a header, and harmless for those
	if len(req.Scopes) > 0 {
		form.Set("scope", strings.Join(req.Scopes, " "))
	}
	if req.Audience != "" {
		form.Set("audience", req.Audience)
	}
	if len(req.Resources) > 0 {
		form["resource"] = slices.Clone(req.Resources)
	}
	return form, nil
}

func (c *Client) deviceAuthorized(a *attempt, res *http.Response) (broker.DeviceAuthorization, error) {
	members, err := a.object(res)
	if err != nil {
		return broker.DeviceAuthorization{}, err
	}
	malformed := func(what string) (broker.DeviceAuthorization, error) {
		return broker.DeviceAuthorization{}, a.fail(broker.ReasonUpstreamMalformed, nil, "answered %d with %s", res.StatusCode, what)
	}
	code, ok := members.text("device_code", maxDeviceCode)
	if !ok {
		return malformed("no device_code that could be used")
	}
	d := broker.DeviceAuthorization{DeviceCode: secret.NewString(code), Interval: defaultInterval}
	if d.UserCode, ok = members.text("user_code", maxUserCode); !ok {
		return malformed("no user_code that could be typed")
	}
	if d.VerificationURI, ok = members.text("verification_uri", maxURI); !ok {
		d.VerificationURI, _ = members.text("verification_url", maxURI) // Google, from a draft
	}
	if !c.browserURL(d.VerificationURI) {
		return malformed("no https verification_uri")
	}
	if whole, there := members.text("verification_uri_complete", maxURI); there && c.browserURL(whole) {
		d.VerificationURIComplete = whole
	}
	if d.ExpiresIn, ok = members.seconds("expires_in", time.Second, maxDeviceLife); !ok {
		return malformed("no expires_in")
	}
	if interval, there := members.seconds("interval", time.Second, d.ExpiresIn); there {
		d.Interval = interval
	}
	return d, nil
}

// object returns the object of a successful answer; a redirect, a status or an OAuth
// error that says otherwise is an error.
func (a *attempt) object(res *http.Response) (object, error) {
	a.progress.reach(stageReading)
	if isRedirect(res.StatusCode) {
		return nil, a.redirected(res)
	}
	if res.StatusCode < 200 || res.StatusCode > 299 {
		ans := answer{status: res.StatusCode, header: res.Header, kind: "a body that could not be read"}
		if body, err := readBody(res); err == nil {
			ans.doc, ans.kind = parseDocument(res.Header.Get("Content-Type"), body)
		}
		return nil, a.rejected(ans)
	}
	body, err := readBody(res)
	if err != nil && !errors.Is(err, errBodyTooLarge) {
		return nil, a.failed(err)
	}
	var members object
	if err == nil {
		members, err = parseMembers(body)
	}
	if err != nil {
		return nil, a.fail(broker.ReasonUpstreamMalformed, nil, "answered %d: %v", res.StatusCode, err)
	}
	if _, failed := members.text("error", maxLooked); failed {
		ans := answer{status: res.StatusCode, header: res.Header}
		ans.doc, ans.kind = parseDocument(res.Header.Get("Content-Type"), body)
		return nil, a.rejected(ans)
	}
	return members, nil
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

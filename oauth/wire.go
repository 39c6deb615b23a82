package oauth

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/oauth/profile"
)

// spell turns parameters with standard names into those of the server.
func (d dialect) spell(form url.Values) (url.Values, error) {
	if d.profile == nil {
		return form, nil
	}
	spelled := make(url.Values, len(form))
	for _, standard := range slices.Sorted(maps.Keys(form)) {
		name := d.name(standard)
		switch {
		case name == "":
		case spelled.Has(name):
			return nil, broker.Invalid("parameters", "%q is a parameter that the broker sends itself by the profile %s", name, d.profile.Name)
		default:
			spelled[name] = form[standard]
		}
	}
	return spelled, nil
}

// reserves reports whether a parameter has the server's name for one that clients may
// not set.
func (d dialect) reserves(parameter string) bool {
	for _, names := range []map[string]string{d.declared().Request.Names, d.declared().Refresh.Names} {
		for standard, name := range names {
			if strings.EqualFold(name, parameter) && broker.ReservedParameter(standard) {
				return true
			}
		}
	}
	return false
}

// override sets what the profile sends besides or instead, which gives way to the
// client's own parameters; an empty value sends nothing.
func (d dialect) override(form url.Values, parameters map[string]string) {
	for name, value := range d.values() {
		if _, own := parameters[name]; own {
			continue
		}
		if form.Del(name); value != "" {
			form.Set(name, value)
		}
	}
}

// encode makes the request that carries the form.
func (d dialect) encode(ctx context.Context, endpoint *url.URL, form url.Values, header http.Header) (*http.Request, error) {
	target, method := endpoint.String(), http.MethodPost
	var body io.Reader
	switch d.declared().Request.Format {
	case profile.FormatJSON:
		text, err := encodeJSON(form)
		if err != nil {
			return nil, broker.Invalid("parameters", "cannot be sent as JSON")
		}
		body = bytes.NewReader(text)
		header.Set("Content-Type", "application/json")
	case profile.FormatQuery:
		asked := *endpoint
		asked.RawQuery = strings.TrimPrefix(asked.RawQuery+"&"+form.Encode(), "&")
		target, method = asked.String(), http.MethodGet
		// net/http repeats a GET whose answer was lost unless it has a body that can be
		// read only once. This one is empty, so that none is sent.
		body = io.MultiReader()
	default:
		body = strings.NewReader(form.Encode())
		header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	out, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, refusedEndpoint("the token endpoint is not a URL")
	}
	out.Header = header
	return out, nil
}

// encodeJSON returns an object of strings; of a list where a parameter repeats. Its
// members are sorted.
func encodeJSON(form url.Values) ([]byte, error) {
	members := make(map[string]any, len(form))
	for name, values := range form {
		if members[name] = values; len(values) == 1 {
			members[name] = values[0]
		}
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false) // parsers that are none would not undo it
	if err := encoder.Encode(members); err != nil {
		return nil, err
	}
	return bytes.TrimSpace(text.Bytes()), nil
}

// header returns what goes with each request, and what the profile sends besides, which
// is none of what [profile.Parse] refuses.
func (d dialect) header() http.Header {
	header := http.Header{
		"Accept":     {"application/json"}, // some answer in form encoding without it
		"User-Agent": {userAgent},
	}
	if d.profile != nil {
		for name, value := range d.profile.Headers(d.variables) {
			header.Set(name, value)
		}
	}
	return header
}

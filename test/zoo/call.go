package zoo

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// maxRequest bounds what is read of a request.
const maxRequest = 1 << 20

// call is one request to a quirk, whose cage is locked meanwhile.
type call struct {
	*cage
	request *http.Request
	// form is the body, be it a form or a JSON object, and the query beneath it.
	form url.Values
	// issuer is the quirk's own URL.
	issuer string
	now    time.Time
}

// answer is what goes back.
type answer struct {
	status int
	header map[string]string
	body   string
}

// object is an answer with a JSON body.
func object(status int, body string) answer {
	return answer{status: status, header: map[string]string{"Content-Type": "application/json", "Cache-Control": "no-store"}, body: body}
}

// refusal is the error answer of RFC 6749 §5.2.
func refusal(status int, code, description string) answer {
	body, _ := json.Marshal(map[string]string{"error": code, "error_description": description})
	a := object(status, string(body))
	if status == http.StatusUnauthorized {
		a.header["WWW-Authenticate"] = `Basic realm="zoo"`
	}
	return a
}

// page is an answer with an HTML body.
func page(status int, title string) answer {
	return answer{status: status, header: map[string]string{"Content-Type": "text/html; charset=utf-8"}, body: "<!doctype html><html><head><title>" + title + "</title></head><body><h1>" + title + "</h1></body></html>"}
}

func (c *cage) serve(w http.ResponseWriter, r *http.Request, endpoint string) {
	if endpoint == "token" && c.quirk.play.way != nil {
		c.count(endpoint)
		c.quirk.play.way(w, r)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		http.Error(w, "no readable body", http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	in := &call{cage: c, request: r, form: parameters(r, body), issuer: origin(r) + "/zoo/" + c.quirk.Name, now: time.Now()}
	c.countLocked(endpoint)
	out := in.answer(endpoint)
	for name, value := range out.header {
		w.Header().Set(name, value)
	}
	w.WriteHeader(cmp.Or(out.status, http.StatusOK))
	_, _ = io.WriteString(w, out.body) // a peer that has left is nobody's loss
}

func (c *cage) count(endpoint string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.countLocked(endpoint)
}

func (c *cage) countLocked(endpoint string) {
	if c.requests == nil {
		c.requests = map[string]int{}
	}
	c.requests[endpoint]++
}

// parameters reads a form, or the strings of a JSON object, and the query.
func parameters(r *http.Request, body []byte) url.Values {
	values := r.URL.Query()
	var members map[string]any
	if json.Unmarshal(body, &members) == nil {
		for name, member := range members {
			values.Set(name, fmt.Sprint(member))
		}
		return values
	}
	if form, err := url.ParseQuery(string(body)); err == nil {
		for name, list := range form {
			values[name] = list
		}
	}
	return values
}

// answer finds the endpoint.
func (c *call) answer(endpoint string) answer {
	switch endpoint {
	case "token":
		return c.tokenEndpoint()
	case "refresh":
		if !c.quirk.play.refreshElsewhere {
			break
		}
		return c.tokenEndpoint()
	case "authorize":
		return c.authorize()
	case "device":
		return c.device()
	case "introspect":
		return c.introspect()
	case "revoke":
		return c.revoke()
	case "api":
		return c.api()
	}
	return page(http.StatusNotFound, "Not Found")
}

// credentials are what the request authenticates with; how says "basic", "post" or "".
func (c *call) credentials() (id, secret, how string) {
	if user, password, ok := c.request.BasicAuth(); ok {
		return user, password, "basic"
	}
	if c.form.Has("client_secret") {
		return c.form.Get("client_id"), c.form.Get("client_secret"), "post"
	}
	return c.form.Get("client_id"), "", ""
}

// known reports whether the client is the one that the quirk knows: by Basic, form-encoded (RFC 6749 §2.3.1), or by the form.
func (c *call) known() bool {
	id, secret, how := c.credentials()
	if how == "basic" {
		var idErr, secretErr error
		id, idErr = url.QueryUnescape(id)
		secret, secretErr = url.QueryUnescape(secret)
		if idErr != nil || secretErr != nil {
			return false
		}
	}
	return id == ClientID && secret == c.secret()
}

func (c *call) secret() string { return cmp.Or(c.quirk.Secret, ClientSecret) }

// bearer is the token in the request's header.
func (c *call) bearer() string {
	token, _ := strings.CutPrefix(c.request.Header.Get("Authorization"), "Bearer ")
	return token
}

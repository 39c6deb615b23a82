// Package zoo plays authorization servers that depart from the standards: each quirk that is known from the field, at a path of
// its own, so that a provider profile can be tried against it.
//
// The quirk NAME lives below /zoo/NAME/: token, refresh, authorize, device, introspect, revoke, and api, which takes the tokens.
// What a quirk does not change is as in the standards: client credentials, authorization code with PKCE, device codes, refresh
// tokens; HTTP Basic or the form. Everything is in memory and in one process.
//
// It is for tests and for trying out, and guards nothing: consent is given to whoever asks.
package zoo

import (
	"bytes"
	_ "embed" // the notes
	"fmt"
	"net/http"
	"strings"
	"sync"
)

// The client that all quirks know. A few have a secret of their own, [Quirk.Secret].
const (
	ClientID     = "zoo"
	ClientSecret = "zoo-secret"
)

// Quirk is one way in which authorization servers depart from the standards, or make use of what those leave open.
type Quirk struct {
	// Name is its path segment.
	Name string
	// Line is the line of the notes that it belongs to; see [Notes].
	Line string
	// Sends says what it does, in one line.
	Sends string
	// Profile is what a provider profile says to get along with it, YAML; "" where nothing needs to be said.
	Profile string
	// Grant is what to ask it for; "" means client_credentials.
	Grant string
	// Secret is the client's secret if it is not [ClientSecret].
	Secret string

	play play
}

// Quirks lists all quirks, those of a line together, in the order of the notes.
func Quirks() []Quirk {
	var list []Quirk
	for _, some := range [][]Quirk{lifetimeQuirks(), bodyQuirks(), refusalQuirks(), targetQuirks(), limitQuirks(), refreshQuirks(), loginQuirks(), wayQuirks(), userQuirks()} {
		list = append(list, some...)
	}
	var ordered []Quirk
	for _, note := range Notes() {
		for _, quirk := range list {
			if quirk.Line == note.Line {
				ordered = append(ordered, quirk)
			}
		}
	}
	return ordered
}

// Find returns the quirk of that name.
func Find(name string) (Quirk, bool) {
	for _, quirk := range Quirks() {
		if quirk.Name == name {
			return quirk, true
		}
	}
	return Quirk{}, false
}

// Note is one line of what is known from the field.
type Note struct {
	// Line names it, Evidence says who met it, Handling what a broker should do.
	Line, Evidence, Handling string
}

//go:embed notes.tsv
var notes string

// Notes lists what is known from the field.
func Notes() []Note {
	var list []Note
	for line := range strings.Lines(notes) {
		cells := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		list = append(list, Note{Line: cells[0], Evidence: cells[1], Handling: cells[2]})
	}
	return list
}

// Definition is a whole provider profile, YAML, for the quirk of a zoo at origin: "https://127.0.0.1:8443".
func (q Quirk) Definition(origin string) string {
	var text bytes.Buffer
	base := origin + "/zoo/" + q.Name
	grant := q.Grant
	if grant == "" {
		grant = "client_credentials"
	}
	fmt.Fprintf(&text, "name: zoo-%s\ntitle: The zoo's %s\nsources: [https://tokenbroker.example/zoo]\n", q.Name, q.Name)
	fmt.Fprintf(&text, "grants: [%s]\n", grant)
	if grant == "authorization_code" {
		fmt.Fprintf(&text, "issuer: %s\n", base)
	}
	fmt.Fprintf(&text, "endpoints:\n  token: %s/token\n  revocation: %s/revoke\n  api: %s/api\n", base, base, base)
	if q.play.introspected {
		fmt.Fprintf(&text, "  introspection: %s/introspect\n", base)
	}
	if q.play.refreshElsewhere {
		fmt.Fprintf(&text, "  refresh: %s/refresh\n", base)
	}
	switch grant {
	case "authorization_code":
		fmt.Fprintf(&text, "  authorization: %s/authorize\n", base)
	case "device_code":
		fmt.Fprintf(&text, "  device_authorization: %s/device\n", base)
	}
	if !strings.Contains(q.Profile, "authentication:") {
		text.WriteString("authentication:\n  methods: [client_secret_basic]\n")
	}
	text.WriteString(q.Profile)
	return text.String()
}

// Zoo is an [http.Handler] with all quirks. Each answers one request at a time.
type Zoo struct {
	cages map[string]*cage // :: name of the quirk → what it remembers
}

// New returns a zoo in which nothing has happened yet.
func New() *Zoo {
	z := &Zoo{cages: map[string]*cage{}}
	for _, quirk := range Quirks() {
		z.cages[quirk.Name] = &cage{quirk: quirk, codes: map[string]code{}, refreshes: map[string]*refresh{}, devices: map[string]int{}}
	}
	return z
}

// Requests returns how many requests came to an endpoint of a quirk, such as "token".
func (z *Zoo) Requests(quirk, endpoint string) int {
	c, ok := z.cages[quirk]
	if !ok {
		return 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.requests[endpoint]
}

// ServeHTTP implements http.Handler.
func (z *Zoo) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/" {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprint(w, Guide(origin(r)))
		return
	}
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/zoo/"), "/")
	c, ok := z.cages[parts[0]]
	if !ok || len(parts) != 2 {
		http.Error(w, "no such quirk; / lists them", http.StatusNotFound)
		return
	}
	c.serve(w, r, parts[1])
}

// origin is where a request was sent to.
func origin(r *http.Request) string {
	if r.TLS != nil {
		return "https://" + r.Host
	}
	return "http://" + r.Host
}

// cage is what one quirk remembers.
type cage struct {
	quirk Quirk

	mu        sync.Mutex          // guards the rest
	requests  map[string]int      // :: endpoint → how many came
	live      []token             // by when they were issued
	codes     map[string]code     // :: code → what it was given for
	refreshes map[string]*refresh // :: refresh token → what became of it
	devices   map[string]int      // :: device code → how often it was polled
}

// Guide is what there is to see, for people, of a zoo at origin.
func Guide(origin string) string {
	var text bytes.Buffer
	fmt.Fprintf(&text, "The provider zoo: authorization servers that depart from the standards.\n\n")
	fmt.Fprintf(&text, "Each quirk lives below %s/zoo/QUIRK/: token, refresh, authorize, device, introspect, revoke, api.\n", origin)
	fmt.Fprintf(&text, "The client is %q with the secret %q unless the quirk says otherwise.\n", ClientID, ClientSecret)
	line := ""
	for _, quirk := range Quirks() {
		if quirk.Line != line {
			line = quirk.Line
			fmt.Fprintf(&text, "\n%s\n", line)
		}
		fmt.Fprintf(&text, "  %-26s %s\n", quirk.Name, quirk.Sends)
		for snippet := range strings.Lines(quirk.Profile) {
			fmt.Fprintf(&text, "  %26s   | %s", "", snippet)
		}
	}
	return text.String()
}

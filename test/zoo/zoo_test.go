package zoo_test

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/tokenbroker/tokenbroker/test/zoo"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestEachNoteHasAQuirk holds the zoo to the notes: none of their lines without an animal, no animal twice or unexplained.
func TestEachNoteHasAQuirk(t *testing.T) {
	lines, names := map[string]int{}, map[string]bool{}
	for _, quirk := range zoo.Quirks() {
		lines[quirk.Line]++
		if names[quirk.Name] || quirk.Sends == "" {
			t.Errorf("%s is there twice or says nothing", quirk.Name)
		}
		names[quirk.Name] = true
	}
	if len(zoo.Notes()) < 23 {
		t.Fatalf("there are %d notes", len(zoo.Notes()))
	}
	for _, note := range zoo.Notes() {
		if lines[note.Line] == 0 || note.Evidence == "" || note.Handling == "" {
			t.Errorf("no quirk, or no evidence, for %q", note.Line)
		}
		delete(lines, note.Line)
	}
	for line := range maps.Keys(lines) {
		t.Errorf("quirks of %q, which is no line of the notes", line)
	}
}

// visitor asks one quirk.
type visitor struct {
	t     *testing.T
	zoo   *zoo.Zoo
	quirk string
}

func (v visitor) send(method, endpoint, bearer string, form url.Values) *httptest.ResponseRecorder {
	v.t.Helper()
	r := httptest.NewRequestWithContext(v.t.Context(), method, "/zoo/"+v.quirk+"/"+endpoint, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if bearer != "" {
		r.Header.Set("Authorization", "Bearer "+bearer)
	} else {
		r.SetBasicAuth(zoo.ClientID, zoo.ClientSecret)
	}
	w := httptest.NewRecorder()
	v.zoo.ServeHTTP(w, r)
	return w
}

// told is what a token endpoint may say.
type told struct {
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`
	Error   string `json:"error"`
	Device  string `json:"device_code"`
	Active  bool   `json:"active"`
}

func (v visitor) post(endpoint string, form url.Values) told {
	v.t.Helper()
	var got told
	body := v.send(http.MethodPost, endpoint, "", form).Body.String()
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		v.t.Fatalf("%s of %s: %v: %s", endpoint, v.quirk, err, body)
	}
	return got
}

func (v visitor) token() string {
	v.t.Helper()
	got := v.post("token", url.Values{"grant_type": {"client_credentials"}})
	if got.Access == "" {
		v.t.Fatalf("no token of %s: %s", v.quirk, got.Error)
	}
	return got.Access
}

func (v visitor) refresh(value string) told {
	v.t.Helper()
	return v.post("token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {value}})
}

// works reports whether the API takes the token.
func (v visitor) works(token string) bool {
	return v.send(http.MethodGet, "api", token, nil).Code == http.StatusOK
}

func TestLiveTokens(t *testing.T) {
	for quirk, most := range map[string]int{"single-active": 1, "capped": 2, "created": 3} {
		v := visitor{t, zoo.New(), quirk}
		var tokens []string
		for range 3 {
			tokens = append(tokens, v.token())
		}
		for i, token := range tokens {
			if got, want := v.works(token), i >= 3-most; got != want {
				t.Errorf("%s: token %d works: %v, want %v", quirk, i+1, got, want)
			}
		}
		last := tokens[2]
		if !v.post("introspect", url.Values{"token": {last}}).Active {
			t.Errorf("%s: the last token is not active", quirk)
		}
		v.send(http.MethodPost, "revoke", "", url.Values{"token": {last}})
		if v.works(last) || v.post("introspect", url.Values{"token": {last}}).Active {
			t.Errorf("%s: the last token works after its revocation", quirk)
		}
		if got := v.zoo.Requests(quirk, "token"); got != 3 {
			t.Errorf("%s: %d token requests, want 3", quirk, got)
		}
	}
}

func TestRefreshTokens(t *testing.T) {
	t.Run("reuse ends the family", func(t *testing.T) {
		v := visitor{t, zoo.New(), "refresh-rotating"}
		first := v.zoo.Plant(v.quirk)
		second := v.refresh(first)
		if second.Refresh == "" || second.Refresh == first || !v.works(second.Access) {
			t.Fatalf("no successor: %s", second.Error)
		}
		if got := v.refresh(first); got.Error != "invalid_grant" {
			t.Errorf("reuse: %q, want invalid_grant", got.Error)
		}
		if got := v.refresh(second.Refresh); got.Error != "invalid_grant" || v.works(second.Access) {
			t.Errorf("the successor after a reuse: %q, want invalid_grant and no token that works", got.Error)
		}
	})
	t.Run("grace", func(t *testing.T) {
		v := visitor{t, zoo.New(), "refresh-rotating-grace"}
		first := v.zoo.Plant(v.quirk)
		once, twice := v.refresh(first), v.refresh(first)
		if once.Refresh == "" || twice.Refresh == "" || once.Refresh == twice.Refresh {
			t.Errorf("within the grace there are not two successors: %q, %q", once.Error, twice.Error)
		}
	})
	t.Run("returned in the grace", func(t *testing.T) {
		v := visitor{t, zoo.New(), "refresh-returned-in-grace"}
		first := v.zoo.Plant(v.quirk)
		once, twice := v.refresh(first), v.refresh(first)
		if once.Refresh == "" || once.Refresh != twice.Refresh {
			t.Errorf("within the grace it is not the same successor: %q, %q", once.Error, twice.Error)
		}
	})
	t.Run("forever", func(t *testing.T) {
		v := visitor{t, zoo.New(), "refresh-forever"}
		first := v.zoo.Plant(v.quirk)
		for range 3 {
			if got := v.refresh(first); got.Access == "" || got.Refresh != "" {
				t.Errorf("refresh: %q; want a token and no successor", got.Error)
			}
		}
	})
}

func TestConsent(t *testing.T) {
	ask := func(v visitor, change func(url.Values)) *httptest.ResponseRecorder {
		query := url.Values{"response_type": {"code"}, "client_id": {zoo.ClientID}, "redirect_uri": {"https://broker.example/callback"}, "state": {"s"}}
		change(query)
		return v.send(http.MethodGet, "authorize?"+query.Encode(), "", nil)
	}
	v := visitor{t, zoo.New(), "consent"}
	target, err := url.Parse(ask(v, func(url.Values) {}).Header().Get("Location"))
	if err != nil {
		t.Fatal(err)
	}
	if got := target.Query().Get("iss"); !strings.HasSuffix(got, "/zoo/consent") || target.Query().Get("state") != "s" {
		t.Errorf("iss %q, state %q", got, target.Query().Get("state"))
	}
	exchange := url.Values{"grant_type": {"authorization_code"}, "code": {target.Query().Get("code")}, "redirect_uri": {"https://broker.example/callback"}}
	if got := v.post("token", exchange); got.Access == "" || got.Refresh == "" {
		t.Errorf("the code gives no tokens: %s", got.Error)
	}
	if got := v.post("token", exchange); got.Error != "invalid_grant" {
		t.Errorf("the code for the second time: %q, want invalid_grant", got.Error)
	}
	if got := ask(v, func(q url.Values) { q.Del("redirect_uri") }).Code; got != http.StatusBadRequest {
		t.Errorf("consent without redirect_uri: %d, want 400", got)
	}
	v.quirk = "wrong-issuer"
	if got := ask(v, func(url.Values) {}).Header().Get("Location"); !strings.Contains(got, url.QueryEscape("https://elsewhere.example")) {
		t.Errorf("wrong-issuer redirects to %s", got)
	}
}

func TestDevices(t *testing.T) {
	v := visitor{t, zoo.New(), "device-slow-down"}
	begun := v.post("device", nil)
	form := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "device_code": {begun.Device}}
	got := []string{v.post("token", form).Error, v.post("token", form).Error, v.post("token", form).Error}
	if want := []string{"slow_down", "", "invalid_grant"}; !slices.Equal(got, want) {
		t.Errorf("polls: %q, want %q", got, want)
	}
}

// TestServe takes the way over TLS, and refuses addresses that others reach.
func TestServe(t *testing.T) {
	if s, err := zoo.Serve("0.0.0.0:0", false, zoo.New()); err == nil {
		_ = s.Close()
		t.Error("the zoo listens beyond loopback")
	}
	s, err := zoo.Serve("127.0.0.1:0", false, zoo.New())
	if err != nil {
		t.Fatal(err)
	}
	client := trusting(t, s.CA)
	response, err := client.Get(s.Origin + "/")
	if err != nil {
		t.Fatal(err)
	}
	guide, err := io.ReadAll(response.Body)
	_ = response.Body.Close()
	for _, quirk := range zoo.Quirks() {
		if !strings.Contains(string(guide), "  "+quirk.Name+" ") {
			t.Errorf("the guide does not name %s (%v)", quirk.Name, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := client.Get(s.Origin + "/"); err == nil {
		t.Error("it serves after Close")
	}
}

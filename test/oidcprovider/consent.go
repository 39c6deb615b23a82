package oidcprovider

import (
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// Consent opens an authorization URL as a browser of that user would, logs in, consents to all that is asked, and returns the query
// that the browser comes back to the redirect URI with. That URI itself is not opened.
func (s *Server) Consent(authorizationURL, user string) url.Values {
	s.t.Helper()
	return s.comeBack(&browser{server: s, user: user}, authorizationURL)
}

// Deny is Consent for a user who cancels the first page.
func (s *Server) Deny(authorizationURL string) url.Values {
	s.t.Helper()
	return s.comeBack(&browser{server: s, denies: true}, authorizationURL)
}

// ApproveDevice opens the URL that a device shows, with the user code in it (verification_uri_complete), and does what Consent does.
func (s *Server) ApproveDevice(verificationURI, user string) {
	s.t.Helper()
	b := browser{server: s, user: user}
	left, err := b.open(verificationURI)
	if err != nil || left != nil {
		s.t.Fatalf("approving a device: sent to %v, %v", left, err)
	}
}

// DenyDevice is ApproveDevice for a user who cancels.
func (s *Server) DenyDevice(verificationURI string) {
	s.t.Helper()
	b := browser{server: s, denies: true}
	left, err := b.open(verificationURI)
	if err != nil || left != nil {
		s.t.Fatalf("denying a device: sent to %v, %v", left, err)
	}
}

func (s *Server) comeBack(b *browser, opened string) url.Values {
	s.t.Helper()
	left, err := b.open(opened)
	if err != nil {
		s.t.Fatalf("giving consent: %v", err)
	}
	if left == nil {
		s.t.Fatal("giving consent: the server shows a page and sends nobody back")
	}
	return left.Query()
}

// browser goes through the server's pages, one after the other.
type browser struct {
	server *Server
	user   string
	denies bool
	left   bool // by the link of a page that asked for something
}

// mostPages is more than any consent has.
const mostPages = 20

// open follows redirects and submits forms until the server sends the browser elsewhere, which is returned, or shows a page without a
// form; then nil is.
func (b *browser) open(first string) (*url.URL, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	client := &http.Client{
		Transport: b.server.client.Transport, Jar: jar, Timeout: 30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	next, err := http.NewRequest(http.MethodGet, first, nil)
	if err != nil {
		return nil, err
	}
	for range mostPages {
		page, err := b.visit(client, next)
		switch {
		case err != nil:
			return nil, err
		case page.elsewhere != nil:
			return page.elsewhere, nil
		case page.next == nil:
			return nil, nil
		}
		next = page.next
	}
	return nil, errors.New("there is no end of pages")
}

// page is what to do after one answer: open next, or end elsewhere, or end.
type page struct {
	next      *http.Request
	elsewhere *url.URL
}

func (b *browser) visit(client *http.Client, request *http.Request) (page, error) {
	response, err := client.Do(request)
	if err != nil {
		return page{}, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return page{}, err
	}
	if location, err := response.Location(); err == nil {
		if !strings.HasPrefix(location.String(), b.server.issuer+"/") {
			return page{elsewhere: location}, nil
		}
		next, err := http.NewRequest(http.MethodGet, location.String(), nil)
		return page{next: next}, err
	}
	if response.StatusCode != http.StatusOK {
		return page{}, fmt.Errorf("%s answered %d: %.500s", request.URL.Path, response.StatusCode, text)
	}
	next, err := b.submit(request.URL, string(text))
	return page{next: next}, err
}

var (
	formTag   = regexp.MustCompile(`(?s)<form[^>]*\baction="([^"]*)"[^>]*>(.*?)</form>`)
	inputTag  = regexp.MustCompile(`<input[^>]*>`)
	attribute = regexp.MustCompile(`\b(name|value)="([^"]*)"`)
)

// submit fills in a page's form; nil if it has none. A user who denies leaves the first page of an interaction by its link.
func (b *browser) submit(at *url.URL, text string) (*http.Request, error) {
	if b.left {
		return nil, nil
	}
	if b.denies && strings.Contains(at.Path, "/interaction/") {
		b.left = true
		return http.NewRequest(http.MethodGet, at.String()+"/abort", nil)
	}
	form := formTag.FindStringSubmatch(text)
	if form == nil {
		return nil, nil
	}
	target, err := at.Parse(html.UnescapeString(form[1]))
	if err != nil {
		return nil, err
	}
	filled := url.Values{}
	for _, input := range inputTag.FindAllString(form[2], -1) {
		var name, value string
		for _, pair := range attribute.FindAllStringSubmatch(input, -1) {
			if pair[1] == "name" {
				name = html.UnescapeString(pair[2])
			} else {
				value = html.UnescapeString(pair[2])
			}
		}
		switch name {
		case "":
			continue
		case "login":
			value = b.user
		case "password":
			value = "any"
		}
		filled.Set(name, value)
	}
	request, err := http.NewRequest(http.MethodPost, target.String(), strings.NewReader(filled.Encode()))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return request, nil
}

// ClientCertificate returns a private key and a certificate with that common name by the authority that the server trusts, PEM: what
// is a client's secret for [TLS] with Client.CertificateSubject "CN=" and the name.
func (s *Server) ClientCertificate(name string) string {
	s.t.Helper()
	if s.authority == nil {
		s.t.Fatal("a server in plaintext sees no certificates")
	}
	certificate, key, err := s.authority.Client(name)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(key) + string(certificate)
}

package oauth

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// maxBody bounds an answer's body; a token is at most [broker.MaxTokenBytes].
const maxBody = 1 << 20

// errBodyTooLarge says that a body goes on after maxBody bytes.
var errBodyTooLarge = errors.New("the body is over 1 MiB")

// answer is what came back, read and parsed as far as it could be.
type answer struct {
	status int
	header http.Header
	doc    document
	// kind says what the body is, in our words.
	kind string
	// text is the beginning of a body that is unstructured.
	text string
}

// read turns an HTTP answer into a token or an error. It reads the body to its
// end, so that the connection can be used again, unless there is too much of it.
func (a *attempt) read(res *http.Response) (broker.TokenResponse, error) {
	a.progress.reach(stageReading)
	if isRedirect(res.StatusCode) {
		return broker.TokenResponse{}, a.redirected(res)
	}
	success := res.StatusCode >= 200 && res.StatusCode <= 299
	ans := answer{status: res.StatusCode, header: res.Header}
	body, err := readBody(res)
	switch {
	case err == nil:
		ans.doc, ans.kind = a.dialect.parse(res.Header.Get("Content-Type"), body)
		if ans.kind == unstructured {
			ans.text = string(body[:min(len(body), maxLooked)])
		}
	case errors.Is(err, errBodyTooLarge):
		ans.kind = "a body over 1 MiB"
	case success || !statusIsProof(res.StatusCode):
		return broker.TokenResponse{}, a.failed(err)
	default:
		ans.kind = "a body that broke off"
	}
	if !success || ans.doc.failed() {
		return broker.TokenResponse{}, a.rejected(ans)
	}
	return a.granted(ans)
}

func readBody(res *http.Response) ([]byte, error) {
	if res.ContentLength > maxBody {
		return nil, errBodyTooLarge
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBody+1))
	if err != nil {
		return nil, err
	}
	if len(body) > maxBody {
		return nil, errBodyTooLarge
	}
	return body, nil
}

// statusIsProof reports whether a status says what happened whatever the body says.
func statusIsProof(status int) bool { return status == http.StatusTooManyRequests || status >= 500 }

func isRedirect(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// redirected names the target's origin and no more: its path and query may hold
// anything, a session or the credential itself.
func (a *attempt) redirected(res *http.Response) error {
	where := "no readable target"
	// Resolved against an absolute URL of which only the origin is known to matter.
	if target, err := res.Request.URL.Parse(res.Header.Get("Location")); err == nil && res.Header.Get("Location") != "" {
		where = a.scrub(document{}).clean(originOf(&url.URL{Scheme: target.Scheme, Host: target.Host}), maxDescription)
	}
	return a.fail(broker.ReasonUpstreamRedirected, nil, "answered %d, a redirect to %s", res.StatusCode, where)
}

// granted reads the token of a successful answer (RFC 6749 §5.1).
func (a *attempt) granted(ans answer) (broker.TokenResponse, error) {
	malformed := func(what string) (broker.TokenResponse, error) {
		return broker.TokenResponse{}, a.fail(broker.ReasonUpstreamMalformed, nil, "answered %d with %s", ans.status, what)
	}
	if !ans.doc.readable() {
		return malformed(ans.kind)
	}
	token, problem := ans.doc.token()
	if problem != "" {
		return malformed(ans.kind + ": " + problem)
	}
	tokenType, ok := ans.doc.tokenType(a.dialect)
	if !ok {
		tokenType, ok = a.boundType(tokenType)
	}
	if !ok {
		shown := a.scrub(ans.doc).clean(tokenType, maxCode)
		return broker.TokenResponse{}, a.fail(broker.ReasonTokenTypeUnsupported, nil, "answered %d with a token of type %s", ans.status, shown)
	}
	scopes, problem := ans.doc.scopes(a.dialect)
	if problem != "" {
		return malformed(ans.kind + ": " + problem)
	}
	response := broker.TokenResponse{
		AccessToken: token, TokenType: tokenType, RefreshIn: ans.doc.seconds("refresh_in"), Scopes: scopes,
		SentTime: a.sent, ServerTime: serverTime(ans.header),
	}
	if problem := a.beside(ans.doc, &response); problem != "" {
		return malformed(ans.kind + ": " + problem)
	}
	a.ends(ans.doc, &response)
	return response, nil
}

// serverTime returns the Date header, zero if there is none that can be read.
func serverTime(header http.Header) time.Time {
	t, err := http.ParseTime(header.Get("Date"))
	if err != nil {
		return time.Time{}
	}
	return t
}

// scrub returns the scrubber that knows the request's credential and the answer's tokens.
func (a *attempt) scrub(doc document) scrubber {
	return scrubber{credentials: append(doc.tokens(), a.credentials...)}
}

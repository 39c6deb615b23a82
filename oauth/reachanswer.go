package oauth

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// judge says whether what answered may be a token endpoint.
func (r *reach) judge(a *attempt, res *http.Response, doc document, kind string, body []byte) (seen []string, warning broker.Reason, err error) {
	said := fmt.Sprintf("answered %d with %s", res.StatusCode, kind)
	fail := func(reason broker.Reason, what string) ([]string, broker.Reason, error) {
		return nil, "", a.fail(reason, nil, "%s%s", said, what)
	}
	page := strings.HasPrefix(kind, "an HTML")
	switch status := res.StatusCode; {
	case isSOAP(body): // whose faults come with status 500
		return fail(broker.ReasonUpstreamNotOAuth, ": a SOAP service")
	case doc.failed() && (isOutage(doc.text("error")) || status > http.StatusInternalServerError):
		return fail(broker.ReasonUpstreamUnavailable, "")
	case doc.failed():
		code := doc.text("error")
		if _, known := codes[code]; !known {
			code = "an error of its own" // nobody asked for it, so it has no meaning worth quoting
		}
		return []string{said + ", as a token endpoint does: " + code}, "", nil
	case status == http.StatusNetworkAuthenticationRequired:
		return fail(broker.ReasonUpstreamNotOAuth, ": a captive portal (RFC 6585 §6)")
	case status == http.StatusTooManyRequests:
		return []string{said}, broker.ReasonUpstreamRateLimited, nil
	case status == http.StatusNotFound || status == http.StatusGone:
		return fail(broker.ReasonEndpointWrong, ": nothing is there")
	case status == http.StatusMethodNotAllowed && r.target.Provider == "":
		return fail(broker.ReasonEndpointWrong, ": it takes no POST")
	case status == http.StatusProxyAuthRequired:
		return fail(broker.ReasonUpstreamProxy, ": something on the way wants a login")
	case status >= 500:
		return fail(broker.ReasonUpstreamUnavailable, "")
	case page:
		return fail(broker.ReasonUpstreamNotOAuth, ": a page for people, such as a login page or a portal")
	case kind == "neither a JSON object nor a form" && r.target.Provider == "" && status < 400:
		return fail(broker.ReasonUpstreamNotOAuth, "")
	case status < 300 && r.target.Provider == "":
		return []string{said + ", where a token endpoint answers 400 or 401 (RFC 6749 §5.2)"}, broker.ReasonUpstreamNotOAuth, nil
	case doc.readable() && r.target.Provider == "":
		return []string{said + " without the member error (RFC 6749 §5.2): an API, but perhaps not a token endpoint"}, broker.ReasonUpstreamNotOAuth, nil
	}
	return []string{said}, "", nil
}

// isOutage reports whether an error code speaks of the server and not of the request
// (RFC 6749 §4.1.2.1, whose codes token endpoints use too).
func isOutage(code string) bool { return code == "temporarily_unavailable" || code == "server_error" }

func isSOAP(body []byte) bool {
	start := string(body[:min(len(body), 1024)])
	return strings.Contains(start, "schemas.xmlsoap.org/soap/envelope") || strings.Contains(start, "www.w3.org/2003/05/soap-envelope")
}

// clock is [broker.StageClock].
func (r *reach) clock(context.Context) broker.Sight {
	sight := broker.Sight{Stage: broker.StageClock}
	theirs := serverTime(r.res.Header)
	if theirs.IsZero() {
		sight.Evidence = []string{"the answer has no Date"}
		return sight
	}
	// A Date counts whole seconds, cut off; it was made between sending and now.
	low, high := time.Until(theirs), theirs.Add(time.Second).Sub(r.sent)
	switch {
	case low > clockDiffers:
		sight.Warning = broker.ReasonUpstreamClockSkew
		sight.Evidence = []string{fmt.Sprintf("its clock is %s ahead of this host's", low.Round(time.Second))}
	case high < -clockDiffers:
		sight.Warning = broker.ReasonUpstreamClockSkew
		sight.Evidence = []string{fmt.Sprintf("its clock is %s behind this host's", (-high).Round(time.Second))}
	default:
		sight.Evidence = []string{"its clock and this host's agree within " + clockDiffers.String()}
	}
	return sight
}

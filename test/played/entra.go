package played

import (
	"fmt"
	"net/http"
	"slices"
)

// Entra plays addPassword, removePassword and "Get application" of Microsoft Graph below /v1.0/, for one application.
type Entra struct {
	Secrets
	// ClientID is the application's appId.
	ClientID string
	// Passwords are the application's, as Graph shows them: without value.
	Passwords []Object
	// Hidden plays reads that lag behind: no password is shown.
	Hidden bool

	made   int
	values map[string]string // :: keyId → value
}

// EntraEnd is when a password ends for which no end is asked.
const EntraEnd = "2028-11-21T08:00:00Z"

// EntraKeyID returns the id of the n-th password that is made.
func EntraKeyID(n int) string { return fmt.Sprintf("aaaaaaaa-0000-4000-8000-%012d", n) }

// Names returns the passwords' names.
func (e *Entra) Names() []string {
	var names []string
	for _, password := range e.Passwords {
		names = append(names, password["displayName"].(string))
	}
	return names
}

// ServeHTTP implements http.Handler.
func (e *Entra) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	base := "/v1.0/applications(appId='" + e.ClientID + "')"
	switch r.Method + " " + r.URL.Path {
	case "GET " + base:
		shown := e.Passwords
		if e.Hidden {
			shown = []Object{}
		}
		Respond(w, http.StatusOK, Object{"appId": e.ClientID, "passwordCredentials": shown})
	case "POST " + base + "/addPassword":
		asked, _ := decode(r)["passwordCredential"].(Object)
		e.add(w, asked)
	case "POST " + base + "/removePassword":
		id, _ := decode(r)["keyId"].(string)
		e.remove(w, id)
	default:
		Respond(w, http.StatusNotFound, e.refusal("Request_ResourceNotFound", "Resource does not exist or one of its queried reference-property objects are not present."))
	}
}

func (e *Entra) add(w http.ResponseWriter, asked Object) {
	e.made++
	end := EntraEnd
	if wanted, ok := asked["endDateTime"].(string); ok {
		end = wanted
	}
	value, id := e.Make(e.made), EntraKeyID(e.made)
	one := Object{"keyId": id, "displayName": asked["displayName"], "endDateTime": end, "hint": value[:3], "secretText": nil}
	e.Passwords = append(e.Passwords, one)
	if e.values == nil {
		e.values = map[string]string{}
	}
	e.values[id] = value
	e.added(value)
	answer := Object{"@odata.context": "https://graph.microsoft.com/v1.0/$metadata#microsoft.graph.passwordCredential"}
	for name, member := range one {
		answer[name] = member
	}
	answer["secretText"] = value
	Respond(w, http.StatusOK, answer)
}

func (e *Entra) remove(w http.ResponseWriter, id string) {
	at := slices.IndexFunc(e.Passwords, func(password Object) bool { return password["keyId"] == id })
	if at < 0 {
		Respond(w, http.StatusBadRequest, e.refusal("Request_BadRequest", "No password credential found with keyId "+id+" for application."))
		return
	}
	e.Passwords = slices.Delete(e.Passwords, at, at+1)
	if value, ok := e.values[id]; ok {
		e.ended(value)
	}
	w.WriteHeader(http.StatusNoContent)
}

func (e *Entra) refusal(code, message string) Object {
	return Object{"error": Object{"code": code, "message": message, "innerError": Object{"request-id": e.ClientID}}}
}

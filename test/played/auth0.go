package played

import "net/http"

// Auth0 plays "Rotate a client secret" and "Get client by ID" below /api/v2/, for one client.
type Auth0 struct {
	Secrets
	// ClientID is the client's, Value its secret now.
	ClientID, Value string

	made int
}

// ServeHTTP implements http.Handler.
func (a *Auth0) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	base := "/api/v2/clients/" + a.ClientID
	switch r.Method + " " + r.URL.Path {
	case "POST " + base + "/rotate-secret":
		a.made++
		before := a.Value
		a.Value = a.Make(a.made)
		a.added(a.Value)
		a.ended(before)
		Respond(w, http.StatusOK, Object{"client_id": a.ClientID, "name": "Reports", "client_secret": a.Value, "tenant": "acme"})
	case "GET " + base:
		if got := r.URL.RawQuery; got != "fields=client_id,client_secret&include_fields=true" {
			Respond(w, http.StatusBadRequest, Object{"statusCode": 400, "error": "Bad Request", "message": "query " + got, "errorCode": "invalid_query_string"})
			return
		}
		Respond(w, http.StatusOK, Object{"client_id": a.ClientID, "client_secret": a.Value})
	default:
		Respond(w, http.StatusNotFound, Object{"statusCode": 404, "error": "Not Found", "message": "The client does not exist", "errorCode": "inexistent_client"})
	}
}

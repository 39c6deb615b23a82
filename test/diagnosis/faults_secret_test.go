package diagnosis_test

import (
	"encoding/base64"
	"net/url"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tokenbroker/tokenbroker/broker"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// pasted registers something else than the secret, as people do who paste it.
func pasted(name string, text func(*scene) string, seen string) fault {
	return fault{
		name, token,
		func(s *scene) {
			s.secret = clientSecret(text(s))
			s.secret.KeepTrailingSpace = true // or it would be refused at the door
		},
		likely(broker.StageSecretFit, broker.ReasonSecretDoubtful, seen),
	}
}

// editSecret changes the stored value of version 1 by hand.
func (s *scene) editSecret(change func(map[string]any)) {
	s.then(func() { s.edit(s.t, s.secretKey(1), change) })
}

// someJWT has the form of one and says nothing.
func someJWT() string {
	return "eyJhbGciOiJub25lIn0." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"`+canary+`"}`)) + "." + canary
}

var secretFaults = []fault{
	pasted("a secret with a space behind it", func(s *scene) string { return s.value + " " }, "white space"),
	pasted("a secret in quotes", func(s *scene) string { return `"` + s.value + `"` }, "quotes"),
	pasted("a placeholder", func(*scene) string { return "<client-secret>" }, "placeholder"),
	pasted("the word changeme", func(*scene) string { return "changeme" }, "placeholder"),
	pasted("the client_id for the secret", func(s *scene) string { return s.message.GetClientId() }, "it is the client_id"),
	pasted("the client's name for the secret", func(s *scene) string { return s.id() }, "the client's name"),
	pasted("a JWT for the secret", func(*scene) string { return someJWT() }, "it is a JWT"),
	pasted("a Basic header's base64", func(s *scene) string {
		return base64.StdEncoding.EncodeToString([]byte(s.message.GetClientId() + ":" + s.value))
	}, "together in base64"),
	pasted("a line of a configuration", func(s *scene) string { return "client_secret=" + s.value }, "a line of a configuration"),
	pasted("a URL for the secret", func(*scene) string { return "https://as.test/" + canary }, "it is a URL"),
	pasted("a secret that is percent-encoded already", func(s *scene) string { return url.QueryEscape(s.value + "+/=") }, "percent-encoded"),
	{
		"a secret past its declared expiry", token,
		func(s *scene) {
			s.secret.ExpireTime = timestamppb.New(time.Now().Add(2 * time.Second))
			s.unknownThere()
			s.then(func() {
				s.edit(s.t, s.recordKey(), func(own map[string]any) {
					firstSecret(own)["expire_time"] = time.Now().Add(-24 * time.Hour).UTC().Format(time.RFC3339)
				})
			})
		},
		likely(broker.StageSecretFit, broker.ReasonSecretExpired, "declared to expire at"),
	},
	{
		"no secret was ever given", secrets,
		func(s *scene) { s.secret = nil },
		proven(broker.StageSecretPresent, broker.ReasonSecretNotSet),
	},
	{
		"a client secret where a key belongs", secrets,
		func(s *scene) {
			s.editRecord(func(own map[string]any) { at(own, "upstream", "authentication")["method"] = "private_key_jwt" })
		},
		proven(broker.StageSecretFit, broker.ReasonSecretUnusable),
	},
	{
		"a secret bound to another endpoint", secrets,
		func(s *scene) {
			s.editRecord(func(own map[string]any) { at(own, "upstream")["token_endpoint"] = "https://elsewhere.test/token" })
		},
		proven(broker.StageDestination, broker.ReasonDestinationNotBound, "https://elsewhere.test"),
	},
	{
		"a value that was changed by hand", secrets,
		func(s *scene) { s.editSecret(func(record map[string]any) { record["value"] = newSecret() }) },
		proven(broker.StageSecretIntact, broker.ReasonSecretChangedOutside, "the fingerprint differs"),
	},
	{
		"a value under another field", secrets,
		func(s *scene) {
			s.editSecret(func(record map[string]any) { record["client_secret"] = record["value"]; delete(record, "value") })
		},
		proven(broker.StageSecretIntact, broker.ReasonRecordFieldMissing, "has no field value"),
	},
	{
		"a value of a newer release", secrets,
		func(s *scene) { s.editSecret(func(record map[string]any) { record["schema"] = 2 }) },
		proven(broker.StageSecretIntact, broker.ReasonRecordSchemaNewer, "has schema 2"),
	},
	{
		"a value that is not text", secrets,
		func(s *scene) { s.editSecret(func(record map[string]any) { record["value"] = []string{canary} }) },
		proven(broker.StageSecretIntact, broker.ReasonRecordCorrupt, "field value is of the wrong type"),
	},
	{
		"a pending version that is destroyed", secrets,
		func(s *scene) {
			s.then(func() {
				_, err := s.rotations.StageSecret(s.t.Context(), &pb.StageSecretRequest{Client: s.message.GetName(), Secret: clientSecret(newSecret())})
				s.must(err)
				s.must(s.store.Destroy(s.t.Context(), s.secretKey(2)))
			})
		},
		warned(broker.StageOtherSecrets, broker.ReasonSecretDestroyed, "version 2 at secrets/"),
	},
}

package diagnosis_test

import (
	"net"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/oauth"
)

// unknownThere makes the authorization server refuse whoever asks: most doubts about
// settings and secrets are only a cause once the server has refused.
func (s *scene) unknownThere() {
	s.must(s.as.RemoveSecret(s.id()+"-app", text(s.value)))
}

// named gives the authorization server a name.
func (s *scene) named(host string) {
	names.set(host, "127.0.0.1")
	s.at("https://" + net.JoinHostPort(host, portOf(s.t, s.as.origin)))
}

var settingsFaults = []fault{
	{
		"a sandbox endpoint for a production client", token,
		func(s *scene) {
			s.named("sandbox-as.test")
			s.message.Labels = map[string]string{"env": "production"}
			s.unknownThere()
		},
		likely(broker.StageSettings, broker.ReasonEndpointsMixed, "token_endpoint looks like a test environment", "label env looks like production"),
	},
	{
		"a staging API beside a production endpoint", token,
		func(s *scene) {
			s.named("login-prod.example")
			s.message.ApiEndpoint, s.message.TokenDestinations = "https://staging-api.test/me", []string{"https://staging-api.test"}
			s.unknownThere()
		},
		likely(broker.StageSettings, broker.ReasonEndpointsMixed, "api_endpoint looks like a test environment"),
	},
	{
		"a placeholder for the client_id", token,
		func(s *scene) { s.message.ClientId = "<your-client-id>" },
		likely(broker.StageSettings, broker.ReasonClientIDDoubtful, "placeholder"),
	},
	{
		"quotes around the client_id", token,
		func(s *scene) { s.message.ClientId = `"` + s.message.ClientId + `"` },
		likely(broker.StageSettings, broker.ReasonClientIDDoubtful, "quotes"),
	},
	{
		"white space around the client_id", token,
		func(s *scene) { s.message.ClientId += " " },
		likely(broker.StageSettings, broker.ReasonClientIDDoubtful, "white space"),
	},
	{
		"a client_id that is percent-encoded already", token,
		func(s *scene) { s.message.ClientId = "app%3A" + s.message.ClientId },
		likely(broker.StageSettings, broker.ReasonClientIDDoubtful, "percent-encoded"),
	},
	{
		"a provider profile that is gone", secrets,
		func(s *scene) { s.editRecord(func(own map[string]any) { at(own, "upstream")["provider"] = "gone" }) },
		proven(broker.StageSettings, broker.ReasonProviderUnknown, `provider "gone"`),
	},
	{
		"an endpoint that this server does not connect to any more", secrets,
		func(s *scene) {
			s.then(func() {
				s.site = newSite(s.t, s.store, settings{upstream: func(cfg *oauth.Config) { cfg.AllowHTTPLoopback = false }})
			})
		},
		proven(broker.StageSettings, broker.ReasonUpstreamAddressRefused, "127.0.0.1 is loopback"),
	},
}

package diagnosis_test

import (
	"github.com/tokenbroker/tokenbroker/broker"
	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// askAbout asks about another client than the one that is registered.
// It asks a replica that has just started and holds no list of names yet.
func (s *scene) askAbout(id string) {
	s.check.Client = "clients/" + id
	s.then(func() { s.site = newSite(s.t, s.store, settings{}) })
}

// editRecord changes the client's record by hand.
func (s *scene) editRecord(change func(map[string]any)) {
	s.then(func() { s.edit(s.t, s.recordKey(), change) })
}

// neighbour registers another healthy client beside the scene's own.
func (s *scene) neighbour() *scene {
	other := newScene(s.t, s.site)
	other.register()
	return other
}

var indexFaults = []fault{
	{
		"a name with a letter left out", secrets,
		func(s *scene) { s.askAbout(s.id()[:len(s.id())-1]) },
		proven(broker.StageIndex, broker.ReasonClientNotFound, "near to it: "),
	},
	{
		"a name with another separator", secrets,
		func(s *scene) { s.askAbout("client." + s.id()[len("client-"):]) },
		proven(broker.StageIndex, broker.ReasonClientNotFound, "near to it: "),
	},
	{
		"a name that is nobody's", secrets,
		func(s *scene) { s.askAbout("quite-something-else") },
		proven(broker.StageIndex, broker.ReasonClientNotFound),
	},
	{
		"disabled", secrets,
		func(s *scene) {
			s.then(func() {
				_, err := s.clients.DisableClient(s.t.Context(), &pb.DisableClientRequest{Name: s.message.GetName()})
				s.must(err)
			})
		},
		proven(broker.StageClientState, broker.ReasonClientDisabled),
	},
	{
		"deleted", secrets,
		func(s *scene) {
			s.then(func() { s.deleteClient() })
		},
		proven(broker.StageClientState, broker.ReasonClientDeleted),
	},
	{
		"purged", secrets,
		func(s *scene) {
			s.then(func() {
				deleted := s.deleteClient()
				_, err := s.clients.PurgeClient(s.t.Context(), &pb.PurgeClientRequest{Name: s.message.GetName(), Etag: deleted.GetEtag()})
				s.must(err)
			})
		},
		proven(broker.StageIndex, broker.ReasonClientNotFound),
	},
	{
		"half deleted: the record is there, its secret is destroyed", secrets,
		func(s *scene) {
			s.then(func() { s.must(s.store.Destroy(s.t.Context(), s.secretKey(1))) })
		},
		proven(broker.StageSecretPresent, broker.ReasonSecretDestroyed, "version 1 at secrets/"),
	},
	{
		"half deleted: the secrets are there, the record is destroyed", secrets,
		func(s *scene) {
			s.then(func() { s.must(s.store.Destroy(s.t.Context(), s.recordKey())) })
		},
		proven(broker.StageIndex, broker.ReasonRecordDestroyed, "clients/"),
	},
	{
		"the record of another client lies there", secrets,
		func(s *scene) {
			s.then(func() {
				fields, _ := s.record(s.t, s.neighbour().recordKey())
				s.edit(s.t, s.recordKey(), func(own map[string]any) { own["id"] = fields["id"] })
			})
		},
		proven(broker.StageIndex, broker.ReasonRecordCorrupt, "holds the record of another client"),
	},
	{
		"the record names a secret that was never written", secrets,
		func(s *scene) {
			s.editRecord(func(own map[string]any) { firstSecret(own)["number"] = 4 })
		},
		proven(broker.StageSecretPresent, broker.ReasonSecretAbsent, "version 4 at secrets/", "never existed"),
	},
	{
		"the record names another client's secret", secrets,
		func(s *scene) {
			s.then(func() {
				fields, _ := s.record(s.t, s.neighbour().recordKey())
				theirs := firstSecret(fields)
				s.edit(s.t, s.recordKey(), func(own map[string]any) { firstSecret(own)["fingerprint"] = theirs["fingerprint"] })
			})
		},
		proven(broker.StageSecretIntact, broker.ReasonSecretChangedOutside, "the fingerprint differs"),
	},
	{
		"a record of a newer release", secrets,
		func(s *scene) { s.editRecord(func(own map[string]any) { own["schema"] = 7 }) },
		proven(broker.StageIndex, broker.ReasonRecordSchemaNewer, "has schema 7, this release knows 1"),
	},
	{
		"a record without a field", secrets,
		func(s *scene) { s.editRecord(func(own map[string]any) { delete(own, "upstream") }) },
		proven(broker.StageIndex, broker.ReasonRecordFieldMissing, "has no field upstream"),
	},
	{
		"a record whose field is of another type", secrets,
		func(s *scene) { s.editRecord(func(own map[string]any) { own["upstream"] = "https://as.example" }) },
		proven(broker.StageIndex, broker.ReasonRecordCorrupt, "wrong type"),
	},
	{
		"a caller that no row lets have the token", secrets,
		func(s *scene) { s.check.Caller = "reports" },
		proven(broker.StageCaller, broker.ReasonCallerNotAllowed, "no row gives reports the permission token.get"),
	},
	{
		"a caller that may not have the scope", secrets,
		func(s *scene) {
			name := "clients/reports-" + s.id()
			s.message.Name, s.check.Client = name, name
			s.check.Caller, s.check.Scopes = "reports", []string{"write"}
		},
		proven(broker.StageCaller, broker.ReasonScopeNotAllowed),
	},
	{
		"a scope that the client does not have", token,
		func(s *scene) { s.check.Scopes = []string{"admin"} },
		proven(broker.StageSettings, broker.ReasonScopeNotAllowed),
	},
	{
		"an audience that the client does not have", token,
		func(s *scene) { s.check.Audience = "https://elsewhere.test" },
		proven(broker.StageSettings, broker.ReasonTargetNotAllowed),
	},
}

// must ends the test if there is an error.
func (s *scene) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *scene) deleteClient() *pb.Client {
	s.t.Helper()
	response, err := s.clients.DeleteClient(s.t.Context(), &pb.DeleteClientRequest{Name: s.message.GetName()})
	s.must(err)
	return response.GetClient()
}

// firstSecret is the first version of a client's record.
func firstSecret(record map[string]any) map[string]any {
	list, _ := record["secrets"].([]any)
	first, _ := list[0].(map[string]any)
	return first
}

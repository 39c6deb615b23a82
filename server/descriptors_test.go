package server_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// suspicious is what a field that carries a credential might be called. Fields that
// match it in a response must be listed below, with the reason why they may.
var suspicious = regexp.MustCompile(`secret|token|key|password|credential|assertion|private|jwt|jwk|pem|refresh|code|bearer`)

// harmless are fields of responses that match and carry no credential.
var harmless = map[protoreflect.FullName]string{
	"tokenbroker.v1.Client.token_endpoint":                      "a URL without user, query and fragment",
	"tokenbroker.v1.Client.assertion":                           "settings of the assertion",
	"tokenbroker.v1.AssertionSettings.key_id":                   "the kid header",
	"tokenbroker.v1.Client.token_policy":                        "settings of a token's life",
	"tokenbroker.v1.Client.secret_versions":                     "numbers, stages, times and fingerprints",
	"tokenbroker.v1.Client.min_secret_version":                  "a number",
	"tokenbroker.v1.Client.max_live_tokens":                     "a number",
	"tokenbroker.v1.Client.single_active_token":                 "yes or no",
	"tokenbroker.v1.IssueBudget.tokens":                         "a number",
	"tokenbroker.v1.WatchTokenResponse.token":                   "as GetTokenResponse: the other response with an access token",
	"tokenbroker.v1.Client.LabelsEntry.key":                     "a label's name",
	"tokenbroker.v1.Client.ParametersEntry.key":                 "a parameter's name; the broker refuses those that carry credentials",
	"tokenbroker.v1.ListClientsResponse.next_page_token":        "a position in a list",
	"tokenbroker.v1.Client.token_destinations":                  "origins",
	"tokenbroker.v1.RotationSettings.ParametersEntry.key":       "a parameter's name",
	"tokenbroker.v1.RotationSettings.overlapping_secrets":       "yes or no",
	"tokenbroker.v1.RotationSettings.tokens_end_with_secret":    "yes or no",
	"tokenbroker.v1.RotationSettings.verify_tokens":             "a number",
	"tokenbroker.v1.Rotation.required_tokens":                   "a number",
	"tokenbroker.v1.Rotation.verified_tokens":                   "a number",
	"tokenbroker.v1.Rotation.drop_tokens":                       "yes or no",
	"tokenbroker.v1.Rotation.secret_version":                    "a number",
	"tokenbroker.v1.CallerUse.secret_version":                   "a number",
	"tokenbroker.v1.ListRotationsResponse.next_page_token":      "a position in a list",
	"tokenbroker.v1.AdoptSecretResponse.secret_version":         "as Client.secret_versions",
	"tokenbroker.v1.StageSecretResponse.secret_version":         "as Client.secret_versions",
	"tokenbroker.v1.VerifySecretResponse.secret_version":        "as Client.secret_versions",
	"tokenbroker.v1.RetireSecretResponse.secret_version":        "a number",
	"tokenbroker.v1.ListSecretVersionsResponse.secret_versions": "as Client.secret_versions",
	"tokenbroker.v1.Client.assertion_subject":                   "whom an assertion is about",
	"tokenbroker.v1.Client.refresh_endpoint":                    "a URL without user, query and fragment",
	"tokenbroker.v1.Client.ProviderVariablesEntry.key":          "a variable's name",
	"tokenbroker.v1.Client.token_binding":                       "what tokens are bound to",
	"tokenbroker.v1.ListProvidersResponse.next_page_token":      "a position in a list",
	"tokenbroker.v1.GetTokenResponse.access_token":              "the access token: the one response that has it",
	"tokenbroker.v1.Authorization.refresh_time":                 "a time",
	"tokenbroker.v1.Authorization.refresh_expire_time":          "a time",
	"tokenbroker.v1.Authorization.refreshable":                  "yes or no",
	"tokenbroker.v1.RecentFailure.secret_version":               "a number",
	"tokenbroker.v1.CheckCost.token_requests":                   "a number",
	"tokenbroker.v1.Authorization.secret_version":               "a number",
	"tokenbroker.v1.Consent.user_code":                          "what the user types at the provider's page; of no use without the device code",
	"tokenbroker.v1.ListAuthorizationsResponse.next_page_token": "a position in a list",
	"tokenbroker.v1.GetTokenResponse.issued_token_type":         "a URN",
	"tokenbroker.v1.GetTokenResponse.token_type":                "always Bearer",
	"tokenbroker.v1.GetTokenResponse.token_id":                  "a hash's prefix",
	"tokenbroker.v1.GetTokenResponse.refresh_after":             "a time",
	"tokenbroker.v1.GetTokenResponse.secret_version":            "a number",
}

// reachable returns the fields of m and of all messages below it.
func reachable(m protoreflect.MessageDescriptor, seen map[protoreflect.FullName]protoreflect.FieldDescriptor) {
	for i := range m.Fields().Len() {
		field := m.Fields().Get(i)
		if _, ok := seen[field.FullName()]; ok {
			continue
		}
		seen[field.FullName()] = field
		if field.Message() != nil {
			reachable(field.Message(), seen)
		}
	}
}

// TestNoResponseHasAFieldForASecret walks every message that can be answered.
func TestNoResponseHasAFieldForASecret(t *testing.T) {
	w := newWorld(t, setup{})
	requests, responses := map[protoreflect.FullName]protoreflect.FieldDescriptor{}, map[protoreflect.FullName]protoreflect.FieldDescriptor{}
	for _, m := range registered(t, w.server) {
		if !m.ours() {
			continue
		}
		reachable(m.input.Descriptor(), requests)
		reachable(m.output.Descriptor(), responses)
		token := m.output.Descriptor().Fields().ByName("access_token")
		if (token != nil) != strings.HasSuffix(m.full, "/GetToken") {
			t.Errorf("%s: has access_token: %t", m.full, token != nil)
		}
	}
	input := (&pb.SecretInput{}).ProtoReflect().Descriptor().FullName()
	for name, field := range responses {
		if _, listed := harmless[name]; suspicious.MatchString(string(field.Name())) && !listed {
			t.Errorf("responses reach %s: does it carry a credential?", name)
		}
		if name.Parent() == input || field.Message() != nil && field.Message().FullName() == input {
			t.Errorf("responses reach %s", name)
		}
		if free := field.Message(); free != nil && slices.Contains([]protoreflect.FullName{
			(&anypb.Any{}).ProtoReflect().Descriptor().FullName(), (&structpb.Struct{}).ProtoReflect().Descriptor().FullName(),
		}, free.FullName()) {
			t.Errorf("responses reach %s, which may hold anything", name)
		}
		if field.Kind() == protoreflect.BytesKind {
			t.Errorf("responses reach %s, which is bytes: nothing that is answered is binary", name)
		}
		if name.Name() == "access_token" && name != "tokenbroker.v1.GetTokenResponse.access_token" {
			t.Errorf("responses reach %s", name)
		}
	}
	for name := range harmless {
		if _, ok := responses[name]; !ok {
			t.Errorf("the list of harmless fields has %s, which no response reaches", name)
		}
	}
	for _, name := range []protoreflect.FullName{input + ".client_secret", input + ".private_key"} {
		if _, ok := requests[name]; !ok {
			t.Errorf("no request reaches %s: does this test walk at all?", name)
		}
	}
}

package server_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc/codes"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/server"
)

// provocation makes a method answer with a code that its comment names.
type provocation struct {
	name   string
	code   codes.Code
	reason broker.Reason
	// field is one that the BadRequest must name; "" looks at none.
	field   string
	provoke func(t *testing.T, w *world) error
}

// TestContract provokes every code that the comment of an RPC in the .proto names,
// and a code that the table provokes must be named.
func TestContract(t *testing.T) {
	promised := promisedCodes(t)
	for method, provocations := range contract {
		if _, ok := promised[method]; !ok {
			t.Errorf("the contract has %s, which no .proto declares", method)
		}
		for _, p := range provocations {
			if !slices.Contains(promised[method], p.code) {
				t.Errorf("%s: %s answers %v, which its comment does not name", method, p.name, p.code)
			}
		}
	}
	for method, promise := range promised {
		for _, code := range promise {
			if !slices.ContainsFunc(contract[method], func(p provocation) bool { return p.code == code }) {
				t.Errorf("%s: nothing provokes %v, which its comment names", method, code)
			}
		}
		for _, p := range contract[method] {
			t.Run(fmt.Sprintf("%s/%v/%s", method, p.code, p.name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, setup{})
					got := requireProblem(t, p.provoke(t, w), p.code, p.reason)
					if _, ok := got.violations[p.field]; p.field != "" && !ok {
						t.Errorf("got violations %v, want one of %s", got.violations, p.field)
					}
				})
			})
		}
	}
}

var (
	rpcPattern  = regexp.MustCompile(`((?:^|\n)(?:[ \t]*//[^\n]*\n)+)[ \t]*rpc (\w+)\(`)
	codePattern = regexp.MustCompile(`\b[A-Z]+(?:_[A-Z]+)*\b`)
)

// promisedCodes reads the codes that the comments name :: RPC → codes.
func promisedCodes(t *testing.T) map[string][]codes.Code {
	t.Helper()
	names := map[string]codes.Code{}
	for code := codes.OK + 1; code <= codes.Unauthenticated; code++ {
		names[protoName(code)] = code
	}
	files, err := filepath.Glob("../proto/tokenbroker/v1/*.proto")
	if err != nil || len(files) == 0 {
		t.Fatalf("found no .proto files: %v", err)
	}
	promised := map[string][]codes.Code{}
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range rpcPattern.FindAllStringSubmatch(string(source), -1) {
			comment, method := match[1], match[2]
			promised[method] = []codes.Code{}
			for _, word := range codePattern.FindAllString(comment, -1) {
				if code, ok := names[word]; ok && !slices.Contains(promised[method], code) {
					promised[method] = append(promised[method], code)
				}
			}
		}
		if got, want := strings.Count(string(source), "\n  rpc "), len(rpcPattern.FindAllString(string(source), -1)); got != want {
			t.Errorf("%s: %d RPCs, of which %d have a comment", file, got, want)
		}
	}
	return promised
}

var capital = regexp.MustCompile(`([a-z])([A-Z])`)

// protoName returns FAILED_PRECONDITION for FailedPrecondition.
func protoName(code codes.Code) string {
	if code == codes.Canceled {
		return "CANCELLED"
	}
	return strings.ToUpper(capital.ReplaceAllString(code.String(), "${1}_$2"))
}

// TestEveryReasonHasACode compares the two tables: a reason without a code would
// be INTERNAL, and only a warning has none.
func TestEveryReasonHasACode(t *testing.T) {
	warnings := []broker.Reason{
		broker.ReasonTokenShorterThanAsked, broker.ReasonScopesNarrowed, broker.ReasonRefreshFailing, broker.ReasonExpiryAssumed,
		broker.ReasonTokenRejected, broker.ReasonUsingPreviousSecret, broker.ReasonPasswordGrant, broker.ReasonRefreshTokenAbsent,
	}
	codes := server.Codes()
	for _, info := range broker.Reasons() {
		_, ok := codes[info.Reason]
		if warns := slices.Contains(warnings, info.Reason); ok == warns {
			t.Errorf("%s: got a code: %t; is a warning: %t", info.Reason, ok, warns)
		}
		if got, want := server.Code(info.Reason), codes[info.Reason]; ok && got != want {
			t.Errorf("%s: got the code %v, want %v", info.Reason, got, want)
		}
		delete(codes, info.Reason)
	}
	if len(codes) != 0 {
		t.Errorf("these have a code but are not in broker.Reasons(): %v", codes)
	}
	if got := server.Code(broker.ReasonScopesNarrowed); got.String() != "Internal" {
		t.Errorf("a reason without a code: got %v, want Internal", got)
	}
}

func codeOf(t *testing.T, reason broker.Reason) codes.Code {
	t.Helper()
	code, ok := server.Codes()[reason]
	if !ok {
		t.Fatalf("%s has no code", reason)
	}
	return code
}

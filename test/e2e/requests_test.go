package e2e_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/tokenbroker/tokenbroker/test/harness"
)

var (
	documentedCall = regexp.MustCompile(`^(?:bcall|grpcurl) .*(tokenbroker\.v1\.[A-Za-z]+)/([A-Za-z]+)(?: *< *(\S+))?$`)
	inlineRequest  = regexp.MustCompile(` -d '(\{[^']*\})' `)
	namedBlock     = regexp.MustCompile("(?ms)^```json ([a-z-]+\\.json)\n(.*?)^```$")
)

// TestDocumentedRequestsFit checks the requests of README and docs: the method is there,
// and takes what stands in the line. A request that comes from a file must stand in the
// same page if another block of it does, as "```json NAME".
func TestDocumentedRequestsFit(t *testing.T) {
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	inline, files := 0, 0
	for _, path := range append(documentPaths(t, root), filepath.Join(root, "README.md")) {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		blocks := map[string]string{}
		for _, block := range namedBlock.FindAllStringSubmatch(string(content), -1) {
			blocks[block[1]] = block[2]
		}
		used := map[string]bool{}
		for _, d := range documentedLines(t, path) {
			call := documentedCall.FindStringSubmatch(d.line)
			if call == nil {
				continue
			}
			request := newRequest(call[1], call[2])
			if request == nil {
				t.Errorf("%s: %s: there is no such method", d.where, d.line)
				continue
			}
			body := ""
			if found := inlineRequest.FindStringSubmatch(d.line); found != nil {
				body = found[1]
				inline++
			} else if block, ok := blocks[call[3]]; ok {
				body = block
				used[call[3]] = true
				files++
			}
			if body == "" {
				continue
			}
			if err := protojson.Unmarshal([]byte(body), request); err != nil {
				t.Errorf("%s: %s: %v", d.where, d.line, err)
			}
		}
		for name := range blocks {
			if !used[name] {
				t.Errorf("%s: no line sends %s", filepath.Base(path), name)
			}
		}
	}
	if inline < 10 || files < 4 {
		t.Errorf("found %d requests in lines and %d in files", inline, files)
	}
}

// newRequest returns an empty request of a method; nil if there is no such method.
func newRequest(service, method string) protoreflect.ProtoMessage {
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		return nil
	}
	described, ok := found.(protoreflect.ServiceDescriptor)
	if !ok {
		return nil
	}
	m := described.Methods().ByName(protoreflect.Name(strings.TrimSpace(method)))
	if m == nil {
		return nil
	}
	return dynamicpb.NewMessage(m.Input())
}

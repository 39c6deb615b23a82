// Package tokenbroker_test holds the rules of the house: which package may import
// which, how large a file may be, and what must not be committed.
package tokenbroker_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

const (
	module     = "github.com/tokenbroker/tokenbroker"
	grpc       = "google.golang.org/grpc"
	vaultAPI   = "github.com/hashicorp/vault/api"
	brokertest = "broker/brokertest"
	plugintest = "plugin/plugintest"
)

// goPackage is one package of this module, as `go list` describes it.
type goPackage struct {
	ImportPath, Dir           string
	GoFiles, IgnoredGoFiles   []string
	TestGoFiles, XTestGoFiles []string
	Imports, Deps             []string
}

// name is the path within the module; "." is its root.
func (p goPackage) name() string {
	if p.ImportPath == module {
		return "."
	}
	return strings.TrimPrefix(p.ImportPath, module+"/")
}

// packages lists the packages of this module once.
var packages = sync.OnceValues(func() ([]goPackage, error) {
	output, err := exec.Command("go", "list", "-e", "-json=ImportPath,Dir,GoFiles,IgnoredGoFiles,TestGoFiles,XTestGoFiles,Imports,Deps", "./...").Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	var list []goPackage
	for decoder := json.NewDecoder(bytes.NewReader(output)); ; {
		var p goPackage
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return list, nil
		} else if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		list = append(list, p)
	}
})

func allPackages(t *testing.T) []goPackage {
	t.Helper()
	list, err := packages()
	if err != nil {
		t.Fatal(err)
	}
	if len(list) < 8 {
		t.Fatalf("found only %d packages", len(list))
	}
	return list
}

// below reports whether path is prefix or lies below it.
func below(path, prefix string) bool { return path == prefix || strings.HasPrefix(path, prefix+"/") }

func belowAny(path string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(prefix string) bool { return below(path, prefix) })
}

// TestArchitectureNamesEveryPackage, but for what is there to test, build or measure.
func TestArchitectureNamesEveryPackage(t *testing.T) {
	text, err := os.ReadFile("docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z0-9/]+)` \\|").FindAllStringSubmatch(string(text), -1) {
		if info, err := os.Stat(row[1]); err == nil && info.IsDir() {
			named[row[1]] = true
		}
	}
	for _, p := range allPackages(t) {
		if name := p.name(); name != "." && !belowAny(name, []string{"test", "tools", "bench", "deploy"}) && !named[name] {
			t.Errorf("docs/architecture.md does not name %s", name)
		}
	}
}

// TestImportsRunOneWay holds the edges of docs/architecture.md: what a package must
// not reach, not even through others.
func TestImportsRunOneWay(t *testing.T) {
	ours := func(names ...string) (paths []string) {
		for _, name := range names {
			paths = append(paths, module+"/"+name)
		}
		return paths
	}
	rules := []struct {
		from      string
		never     []string
		because   string
		mustExist bool
	}{
		{"broker", append(ours("oauth", "vault", "embedded", "server", "client", "cmd", "proto", "plugin"), grpc, vaultAPI, "net/http"), "the domain knows no gRPC, no Vault and no HTTP", true},
		{"oauth", append(ours("vault", "embedded", "server", "client", "cmd", "proto", "plugin"), grpc, vaultAPI), "adapters do not know each other", true},
		{"vault", append(ours("oauth", "embedded", "server", "client", "cmd", "proto", "plugin"), grpc), "adapters do not know each other", true},
		{"embedded", append(ours("oauth", "vault", "server", "client", "cmd", "proto", "plugin"), grpc, vaultAPI, "net/http"), "adapters do not know each other", true},
		{"plugin", append(ours("oauth", "vault", "embedded", "server", "client", "cmd", "proto/tokenbroker/v1"), vaultAPI), "adapters do not know each other", true},
		{"server", append(ours("oauth", "vault", "embedded", "client", "cmd", "plugin"), vaultAPI), "adapters do not know each other", true},
		{"server/audit", append(ours("broker", "proto", "client"), grpc), "whoever has the files can check them", true},
		{"server/notify", append(ours("proto"), grpc), "webhooks are HTTP and nothing else", true},
		{"proto", ours("broker", "oauth", "vault", "embedded", "server", "client", "cmd", "internal", "plugin"), "the contract depends on nothing of ours", true},
		{"client", append(ours("broker", "oauth", "vault", "embedded", "server", "cmd", "internal", "plugin"), vaultAPI), "callers import the contract and no more", true},
		{"cmd/tokenctl", append(ours("broker", "oauth", "vault", "embedded", "server", "internal/authserver", "internal/devpki", "plugin"), vaultAPI), "the operator's tool speaks to the API", true},
		{"internal", append(ours("oauth", "vault", "embedded", "server", "client", "cmd", "plugin"), grpc, vaultAPI), "what all may use depends on nobody", true},
	}
	// What reads audit files stands on the standard library and asks no server.
	yet := map[string][]string{"cmd/tokenctl": ours("server/audit")}
	for _, rule := range rules {
		t.Run(rule.from, func(t *testing.T) {
			found := false
			for _, p := range allPackages(t) {
				if !below(p.name(), rule.from) {
					continue
				}
				found = true
				for _, dep := range p.Deps {
					if belowAny(dep, rule.never) && !slices.Contains(yet[p.name()], dep) {
						t.Errorf("%s reaches %s: %s", p.name(), dep, rule.because)
					}
				}
			}
			if rule.mustExist && !found {
				t.Errorf("there is no package %s", rule.from)
			}
		})
	}
}

// TestWhoImportsWhat holds the libraries that only some may import, and what only
// tests may.
func TestWhoImportsWhat(t *testing.T) {
	for _, p := range allPackages(t) {
		name := p.name()
		for _, path := range p.Imports {
			switch {
			case below(path, grpc) && !belowAny(name, []string{"server", "client", "plugin", "cmd", "proto", "bench", "test"}):
				t.Errorf("%s imports %s: only the border knows gRPC", name, path)
			case below(path, vaultAPI) && !belowAny(name, []string{"vault", "test", "tools"}):
				t.Errorf("%s imports %s: only package vault knows the Vault API", name, path)
			case (below(path, "testing") || path == module+"/"+brokertest || path == module+"/"+plugintest) && !belowAny(name, []string{brokertest, plugintest, "test", "bench"}):
				t.Errorf("%s imports %s outside of its tests", name, path)
			case below(path, module+"/cmd") || below(path, module+"/test") && !belowAny(name, []string{"test", "bench", "tools"}):
				t.Errorf("%s imports %s, which nobody may import", name, path)
			case name == "internal/secret" && strings.Contains(strings.Split(path, "/")[0], "."):
				t.Errorf("%s imports %s: it must stay readable in one sitting", name, path)
			}
		}
	}
}

// source is one parsed Go file.
type source struct {
	path string // from the root
	file *ast.File
	size int // in lines
}

// sources parses the files of a package that are not tests and not generated.
func (p goPackage) sources(t *testing.T, files *token.FileSet) []source {
	t.Helper()
	var list []source
	for _, name := range append(slices.Clone(p.GoFiles), p.IgnoredGoFiles...) {
		path := filepath.Join(p.Dir, name)
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		file, err := parser.ParseFile(files, path, content, parser.ParseComments)
		if err != nil {
			t.Errorf("parse: %v", err)
			continue
		}
		if !ast.IsGenerated(file) {
			list = append(list, source{filepath.Join(p.name(), name), file, bytes.Count(content, []byte("\n"))})
		}
	}
	return list
}

// TestSources holds what every file and package must have.
func TestSources(t *testing.T) {
	const mostLines = 400
	files := token.NewFileSet()
	for _, p := range allPackages(t) {
		list := p.sources(t, files)
		documented := len(list) == 0
		for _, s := range list {
			documented = documented || s.file.Doc != nil && len(s.file.Doc.Text()) > 20
			if s.size > mostLines {
				t.Errorf("%s has %d lines, want at most %d: what are its two nouns?", s.path, s.size, mostLines)
			}
			for _, undocumented := range undocumented(s.file) {
				t.Errorf("%s: %s has no comment", s.path, undocumented)
			}
		}
		if !documented {
			t.Errorf("package %s has no package comment", p.name())
		}
	}
}

// undocumented returns the exported identifiers of a file that have no comment. A
// comment on a group of constants or variables is theirs.
func undocumented(file *ast.File) []string {
	var names []string
	note := func(identifier *ast.Ident, comments ...*ast.CommentGroup) {
		if identifier.IsExported() && !slices.ContainsFunc(comments, func(c *ast.CommentGroup) bool { return c.Text() != "" }) {
			names = append(names, identifier.Name)
		}
	}
	for _, declaration := range file.Decls {
		switch d := declaration.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil || ast.IsExported(receiver(d.Recv.List[0].Type)) {
				note(d.Name, d.Doc)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch s := spec.(type) {
				case *ast.TypeSpec:
					group := d.Doc
					if d.Lparen.IsValid() {
						group = nil
					}
					note(s.Name, s.Doc, group)
				case *ast.ValueSpec:
					for _, name := range s.Names {
						note(name, s.Doc, s.Comment, d.Doc)
					}
				}
			}
		}
	}
	return names
}

// receiver returns the name of a method's type.
func receiver(expression ast.Expr) string {
	switch e := expression.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.IndexListExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}

// tracked returns the files that are committed, or, outside of a repository, all.
func tracked(t *testing.T) []string {
	t.Helper()
	if output, err := exec.Command("git", "ls-files", "-z").Output(); err == nil && len(output) > 0 {
		return strings.Split(strings.TrimSuffix(string(output), "\x00"), "\x00")
	}
	var files []string
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && (entry.Name() == "node_modules" || entry.Name() == ".git") {
			return fs.SkipDir
		}
		if err == nil && entry.Type().IsRegular() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestNothingIsLeftOver looks for notes to oneself and traces of the machine that a
// file was written on.
func TestNothingIsLeftOver(t *testing.T) {
	leftovers := []struct {
		what    string
		pattern *regexp.Regexp
	}{
		{"a note to oneself", regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b`)},
		{"an absolute path of this machine", machinePaths(t)},
		{"the address of a registry", registries(t)},
	}
	for _, path := range tracked(t) {
		content, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) { // deleted and not yet committed
			continue
		}
		if err != nil {
			t.Errorf("read: %v", err)
			continue
		}
		if bytes.IndexByte(content[:min(len(content), 8000)], 0) >= 0 {
			t.Errorf("%s is binary", path)
			continue
		}
		for _, leftover := range leftovers {
			for _, at := range leftover.pattern.FindAllIndex(content, 3) {
				line := bytes.Count(content[:at[0]], []byte("\n")) + 1
				t.Errorf("%s:%d has %s: %s", path, line, leftover.what, content[at[0]:at[1]])
			}
		}
	}
}

// machinePaths matches what begins with this checkout's parent or the home folder.
func machinePaths(t *testing.T) *regexp.Regexp {
	t.Helper()
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	places := []string{`/(home|Users)/[a-z]\w*/`}
	home, _ := os.UserHomeDir() // there may be none
	for _, place := range []string{root, filepath.Dir(root), home} {
		if len(place) > len("/src") { // else it says nothing
			places = append(places, regexp.QuoteMeta(filepath.ToSlash(place))+`/[\w.-]`)
		}
	}
	return regexp.MustCompile(`(^|[^\w.\-/~}])(` + strings.Join(places, "|") + `)`)
}

// registries matches hosts that this machine gets packages from, unless everybody
// does.
func registries(t *testing.T) *regexp.Regexp {
	t.Helper()
	public := []string{"proxy.golang.org", "sum.golang.org", "registry.npmjs.org", "pypi.org", "github.com"}
	hosts := []string{`"resolved": "https?://`} // a lock file names hosts only if npm was not told otherwise
	for _, name := range []string{"GOPROXY", "GOSUMDB", "NPM_CONFIG_REGISTRY", "npm_config_registry", "PIP_INDEX_URL", "HTTP_PROXY", "HTTPS_PROXY", "https_proxy", "http_proxy"} {
		for _, value := range strings.FieldsFunc(os.Getenv(name), func(r rune) bool { return r == ',' || r == '|' || r == ' ' }) {
			if u, err := url.Parse(value); err == nil && u.Hostname() != "" && u.Hostname() != "localhost" && !slices.Contains(public, u.Hostname()) {
				hosts = append(hosts, regexp.QuoteMeta(u.Hostname()))
			}
		}
	}
	return regexp.MustCompile(strings.Join(hosts, "|"))
}

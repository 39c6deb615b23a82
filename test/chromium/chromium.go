package chromium

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/test/harness"
)

// visitWithin bounds one visit on a busy machine.
const visitWithin = 90 * time.Second

// Visit is what came of opening a page.
type Visit struct {
	// DOM is the document as it was after loading.
	DOM string
	// Console are the messages of the page's console: errors, violations of its policy.
	Console []string
	// Requests are the page's URL and those that it asked for, data: left out.
	Requests []string
}

// Browser is a headless Chromium. Each visit is a process and a profile of its own.
type Browser struct {
	folder string
}

// Open returns a browser. It skips the test where Chromium was not installed, or fails it
// where nothing may be missing.
func Open(t testing.TB) *Browser {
	t.Helper()
	harness.SkipIfOff(t)
	cache, err := harness.CacheDir()
	if err != nil {
		t.Fatalf("opening chromium: %v", err)
	}
	folder := filepath.Join(cache, layout)
	if _, err := os.Stat(filepath.Join(folder, program)); err != nil {
		harness.Missing(t, errMissing)
	}
	return &Browser{folder: folder}
}

// Visit opens a page in a window of that width, and writes a picture of it to the file
// screenshot if that is not "".
func (b *Browser) Visit(t testing.TB, url, width string, dark bool, screenshot string) Visit {
	t.Helper()
	netLog := filepath.Join(t.TempDir(), "net.json")
	var v Visit
	dom, log := b.run(t, append(flags(t, width, dark), "--log-net-log="+netLog, "--net-log-capture-mode=Everything", "--dump-dom", url))
	v.DOM = dom
	for line := range strings.Lines(log) {
		if strings.Contains(line, "CONSOLE") {
			v.Console = append(v.Console, strings.TrimSpace(line))
		}
	}
	v.Requests = requests(t, netLog, url)
	if screenshot != "" {
		b.run(t, append(flags(t, width, dark), "--screenshot="+screenshot, url))
	}
	return v
}

// flags keep the browser from speaking to anybody by itself.
func flags(t testing.TB, width string, dark bool) []string {
	t.Helper()
	list := []string{
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-sync", "--disable-extensions",
		"--disable-background-networking", "--disable-component-update", "--disable-default-apps", "--disable-domain-reliability", "--no-pings", "--no-proxy-server",
		"--ignore-certificate-errors", "--enable-logging=stderr", "--hide-scrollbars", "--force-color-profile=srgb",
		"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--user-data-dir=" + t.TempDir(), "--window-size=" + width + ",900",
	}
	if dark {
		list = append(list, "--blink-settings=preferredColorScheme=0")
	}
	return list
}

func (b *Browser) run(t testing.TB, args []string) (output, log string) {
	t.Helper()
	var stdout, stderr strings.Builder
	command := exec.CommandContext(t.Context(), filepath.Join(b.folder, program), args...)
	environment, err := environment(b.folder)
	if err != nil {
		t.Fatalf("running chromium: %v", err)
	}
	command.Env, command.Stdout, command.Stderr = append(environment, "HOME="+t.TempDir()), &stdout, &stderr
	end := time.AfterFunc(visitWithin, func() { _ = command.Process.Kill() })
	defer end.Stop()
	if err := command.Run(); err != nil {
		t.Fatalf("running chromium: %v\n%s", err, stderr.String())
	}
	return stdout.String(), stderr.String()
}

// requests reads the URLs that a page asked for, and its own, out of a log of Chromium's
// network stack.
func requests(t testing.TB, file, page string) []string {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("reading chromium's log: %v", err)
	}
	var log struct {
		Events []struct {
			Params struct {
				URL       string `json:"url"`
				Method    string `json:"method"`
				Initiator string `json:"initiator"`
			} `json:"params"`
		} `json:"events"`
	}
	if err := json.Unmarshal(raw, &log); err != nil {
		t.Fatalf("reading chromium's log: %v", err)
	}
	var urls []string
	for _, event := range log.Events {
		p := event.Params
		// What the browser asks for by itself has no page as its initiator.
		if p.Method != "" && strings.HasPrefix(p.URL, "http") && (strings.HasPrefix(p.Initiator, "http") || strings.HasPrefix(p.URL, page)) {
			urls = append(urls, p.URL)
		}
	}
	return urls
}

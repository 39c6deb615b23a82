package main

import (
	"strings"
	"testing"
)

// files are the certificates of a sound configuration.
const files = `
  certificate_file: FILE
  key_file: FILE
  client_ca_file: FILE
`

// sound is the least that a configuration must say.
const sound = `listen:` + files + `store:
  embedded: {file: store.db, key_file: store.key}
`

// TestCheckConfig has a file for each thing that can be wrong. FILE stands for a
// file that exists. want are all lines of the answer, without the file's name.
func TestCheckConfig(t *testing.T) {
	tests := []struct {
		name, file string
		want       []string
	}{
		{"sound", sound, nil},
		{"everything", `listen:
  address: "[::]:443"` + files + `callers:
- {name: a, identity: "spiffe://example.org/a", role: caller}
- {name: b, identity: "dns:b.example.org", role: operator}
store:
  vault:
    address: https://vault.example.org:8200
    ca_file: FILE
    client_cert_file: FILE
    client_key_file: FILE
    namespace: team/a
    mount: kv/x
    prefix: prod/eu
    approle: {role_id_file: FILE, secret_id_file: FILE, mount: own}
    timeout: 2500ms
upstream:
  ca_file: FILE
  insecure_http_loopback: true
  allowed_addresses: [10.0.0.0/8, "fd00::/8"]
limits: {max_message_bytes: 100000, max_deadline: 1m30s, max_concurrent_requests: 1, max_concurrent_streams: 1, shutdown_grace: 5s}
log: {level: debug, format: text}
`, nil},
		{"plaintext", "listen: {address: 'localhost:0', insecure_plaintext: true}\nstore: {embedded: {file: a, key_file: b}}\ncallers: [{name: a, identity: insecure-loopback, role: operator}]\n", nil},

		{"empty", "", []string{
			"1: listen.certificate_file: is required, because callers are identified by mutual TLS",
			"1: listen.client_ca_file: is required, because callers are identified by mutual TLS",
			"1: listen.key_file: is required, because callers are identified by mutual TLS",
			"1: store: needs exactly one of vault and embedded",
		}},
		{"no YAML", "listen: [", []string{"2: did not find expected node content"}},
		{"tab", "listen:\n\taddress: x\n", []string{"2: found character that cannot start any token"}},
		{"another shape", "- a\n- b\n", []string{"1: is a list, which cannot stand here"}},
		{"second document", sound + "---\nlog: {format: text}\n", []string{"7: begins a second document; put all settings into one"}},
		{"unknown keys", "# what a typing error looks like\nlisten:\n  adress: x\nstor: {}\nlog:\n  lvl: info\n", []string{
			"3: unknown key adress", "4: unknown key stor", "6: unknown key lvl",
		}},
		{"duplicate keys", sound + "log:\n  format: text\n  format: json\nlog: {}\n", []string{
			`10: mapping key "log" already defined at line 7`,
		}},
		{"wrong types", "listen:\n  insecure_plaintext: 7\nlimits:\n  max_deadline: soon\n  max_message_bytes: 2 MiB\nupstream:\n  allowed_addresses: {}\n", []string{
			"2: `7` is a number where true or false is needed", "4: `soon` is text where a duration such as 30s is needed",
			"5: `2 MiB` is text where a whole number is needed", "7: is a mapping of keys where a list is needed",
		}},
		{"a duration without a unit", sound + "limits: {max_deadline: 60}\n", []string{"7: `60` is a number where a duration such as 30s is needed"}},

		{"missing files", "store:\n  embedded: {file: a, key_file: b}\nlisten:\n  certificate_file: /nonexistent/cert\n  key_file: /nonexistent/key\n  client_ca_file: /nonexistent/ca\nupstream:\n  ca_file: /nonexistent/more\n", []string{
			"4: listen.certificate_file: open /nonexistent/cert: no such file or directory",
			"5: listen.key_file: open /nonexistent/key: no such file or directory",
			"6: listen.client_ca_file: open /nonexistent/ca: no such file or directory",
			"8: upstream.ca_file: open /nonexistent/more: no such file or directory",
		}},
		{"plaintext beyond loopback", "listen:\n  address: 0.0.0.0:7443\n  insecure_plaintext: true\nstore: {embedded: {file: a, key_file: b}}\n", []string{
			"3: listen.insecure_plaintext: plaintext is served on loopback only, and 0.0.0.0:7443 is not",
		}},
		{"plaintext on all addresses", "listen: {address: ':7443', insecure_plaintext: true}\nstore: {embedded: {file: a, key_file: b}}\n", []string{
			"1: listen.insecure_plaintext: plaintext is served on loopback only, and :7443 is not",
		}},
		{"plaintext on what begins like loopback", "listen: {address: '127.0.0.1.example.org:7443', insecure_plaintext: true}\nstore: {embedded: {file: a, key_file: b}}\n", []string{
			"1: listen.insecure_plaintext: plaintext is served on loopback only, and 127.0.0.1.example.org:7443 is not",
		}},
		{"plaintext with certificates", "listen:\n  address: 127.0.0.1:7443\n  insecure_plaintext: true" + files + "store: {embedded: {file: a, key_file: b}}\n", []string{
			"3: listen.insecure_plaintext: cannot be combined with certificate files; remove one or the other",
		}},
		{"no port", strings.Replace(sound, "listen:", "listen:\n  address: 127.0.0.1", 1), []string{`2: listen.address: is "127.0.0.1"; it must be host:port`}},

		{"callers", sound + `callers:
- {name: a, identity: "spiffe://example.org/a", role: admin}
- {name: "", identity: "spiffe://example.org/b", role: caller}
- {name: c, identity: crm, role: caller}
- {name: d, identity: "dns:*.example.org", role: caller}
- name: e
  identity: spiffe://example.org/a
  role: operator
- {name: f, identity: insecure-loopback, role: operator}
`, []string{
			`8: callers[0].role: is "admin"; it must be caller or operator`,
			"9: callers[1].name: is required",
			`10: callers[2].identity: "crm" is none; an identity is one of spiffe://example.org/crm, dns:crm.example.org or insecure-loopback`,
			`11: callers[3].identity: "dns:*.example.org" must name one host, such as dns:crm.example.org`,
			`13: callers[4].identity: "spiffe://example.org/a" is that of callers[0].identity already`,
			"15: callers[5].identity: insecure-loopback needs listen.insecure_plaintext",
		}},

		{"no store", "listen:" + files, []string{"1: store: needs exactly one of vault and embedded"}},
		{"two stores", "listen:" + files + "store:\n  vault: {address: 'https://v', token_file: FILE}\n  embedded: {file: a, key_file: b}\n", []string{
			"5: store: needs exactly one of vault and embedded",
		}},
		{"embedded without files", "listen:" + files + "store:\n  embedded: {}\n", []string{
			"6: store.embedded.file: is required", "6: store.embedded.key_file: is required",
		}},
		{"vault", "listen:" + files + `store:
  vault:
    address: http://vault.example.org:8200
    namespace: a b
    mount: kv/*
    prefix: ../x
    timeout: -1s
    client_cert_file: FILE
`, []string{
			"7: store.vault.address: must be an https URL: plain http would show tokens and secrets to the network; only loopback is allowed",
			`8: store.vault.namespace: "a b" is not a path of letters, digits, '.', '_', '-' and inner slashes`,
			`9: store.vault.mount: "kv/*" is not a path of letters, digits, '.', '_', '-' and inner slashes`,
			`10: store.vault.prefix: "../x" is not a path of letters, digits, '.', '_', '-' and inner slashes`,
			"11: store.vault.timeout: -1s is not between 0 and 1m0s",
			"12: store.vault.client_cert_file: set both client_cert_file and client_key_file, or neither",
			"6: store.vault.token_file: set exactly one of token_file, approle, kubernetes, jwt and cert: the broker must log in somehow",
		}},
		{"vault with an empty mapping", "listen:" + files + "store:\n  vault: {}\n", []string{
			"6: store.vault.address: is required, as in https://vault.example.com:8200",
			"6: store.vault.token_file: set exactly one of token_file, approle, kubernetes, jwt and cert: the broker must log in somehow",
		}},
		{"approle", "listen:" + files + "store:\n  vault:\n    address: https://v\n    approle:\n      role_id_file: /nonexistent/role\n", []string{
			"8: store.vault.approle.secret_id_file: is required",
			"9: store.vault.approle.role_id_file: open /nonexistent/role: no such file or directory",
		}},
		{"vault logins", "listen:" + files + "store:\n  vault:\n    address: https://v\n    kubernetes:\n      role: r\n      token_file: /nonexistent/pod\n    jwt:\n      role: r\n      token_file: /nonexistent/jwt\n", []string{
			"13: store.vault.jwt.token_file: open /nonexistent/jwt: no such file or directory",
			"11: store.vault.jwt: set exactly one of token_file, approle, kubernetes, jwt and cert, not kubernetes and jwt",
			"10: store.vault.kubernetes.token_file: open /nonexistent/pod: no such file or directory",
		}},

		{"limits and log", sound + "limits:\n  max_message_bytes: -1\n  max_deadline: -1s\n  max_concurrent_requests: -1\n  max_concurrent_streams: -1\n  shutdown_grace: -1s\nlog:\n  level: loud\n  format: xml\n", []string{
			"8: limits.max_message_bytes: is negative", "9: limits.max_deadline: is negative", "10: limits.max_concurrent_requests: is negative",
			"11: limits.max_concurrent_streams: is negative", "12: limits.shutdown_grace: is negative",
			`14: log.level: is "loud"; it must be debug, info, warn or error`, `15: log.format: is "xml"; it must be json or text`,
		}},
		{"addresses", sound + "upstream:\n  allowed_addresses:\n  - 10.0.0.0/8\n  - 10.0.0.1\n  - example.org\n", []string{
			`10: upstream.allowed_addresses[1]: is "10.0.0.1"; it must be a range such as 10.0.0.0/8`,
			`11: upstream.allowed_addresses[2]: is "example.org"; it must be a range such as 10.0.0.0/8`,
		}},
		{"all at once", "log:\n  level: loud\nlisten:\n  address: x\nupstream: {allowed_addresses: [x]}\nstore: {}\n", []string{
			`2: log.level: is "loud"; it must be debug, info, warn or error`,
			"3: listen.certificate_file: is required, because callers are identified by mutual TLS",
			"3: listen.client_ca_file: is required, because callers are identified by mutual TLS",
			"3: listen.key_file: is required, because callers are identified by mutual TLS",
			`4: listen.address: is "x"; it must be host:port`,
			`5: upstream.allowed_addresses[0]: is "x"; it must be a range such as 10.0.0.0/8`,
			"6: store: needs exactly one of vault and embedded",
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := write(t, "config.yaml", "")
			path = write(t, "config.yaml", strings.ReplaceAll(test.file, "FILE", path))
			got := command(t, "check-config", "--config", path)
			if len(test.want) == 0 {
				got.want(t, 0)
				if !strings.Contains(got.stdout, path+" is sound\n") {
					t.Errorf("it printed %q", got.stdout)
				}
				return
			}
			got.want(t, 2)
			var lines []string
			for line := range strings.Lines(got.err.Error()) {
				lines = append(lines, strings.TrimPrefix(strings.TrimSuffix(line, "\n"), path+":"))
			}
			if want := inOrder(test.want); strings.Join(lines, "\n") != strings.Join(want, "\n") {
				t.Errorf("problems:\n%s\nwant:\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
			}
			if got.stdout != "" {
				t.Errorf("it printed %q", got.stdout)
			}
			// What check-config refuses, serve refuses in the same words.
			served := command(t, "serve", "--config", path)
			served.want(t, 2, got.err.Error())
		})
	}
}

// inOrder sorts lines by their number, keeping those of equal number as they are.
func inOrder(lines []string) []string {
	sorted := append([]string(nil), lines...)
	for i := range sorted {
		for j := i; j > 0 && number(sorted[j]) < number(sorted[j-1]); j-- {
			sorted[j], sorted[j-1] = sorted[j-1], sorted[j]
		}
	}
	return sorted
}

func number(line string) (n int) {
	for _, r := range line {
		if r < '0' || r > '9' {
			return n
		}
		n = 10*n + int(r-'0')
	}
	return n
}

func TestCheckConfigWarnsOfNobody(t *testing.T) {
	path := write(t, "config.yaml", "")
	got := command(t, "check-config", "--config", write(t, "c.yaml", strings.ReplaceAll(sound, "FILE", path)))
	got.want(t, 0)
	if !strings.Contains(got.stdout, "nobody may call") {
		t.Errorf("it printed %q, want a warning that callers is empty", got.stdout)
	}
}

// TestDefaults are those of a file that says the least.
func TestDefaults(t *testing.T) {
	path := write(t, "config.yaml", "")
	cfg, err := loadConfig(write(t, "c.yaml", strings.ReplaceAll(sound, "FILE", path)))
	if err != nil {
		t.Fatal(err)
	}
	if level, err := cfg.Log.level(); cfg.Listen.Address != "127.0.0.1:7443" || cfg.Log.Format != "json" || level != 0 || err != nil {
		t.Errorf("address %s, log %s, level %v (%v); want 127.0.0.1:7443, json, INFO", cfg.Listen.Address, cfg.Log.Format, level, err)
	}
}

func TestConfigThatCannotBeRead(t *testing.T) {
	command(t, "check-config", "--config", "/nonexistent/config.yaml").want(t, 2, "/nonexistent/config.yaml: no such file")
	command(t, "check-config", "--config", t.TempDir()).want(t, 2, "is a directory")
	command(t, "check-config").want(t, 2, "--config")
	// The variable stands in for the flag, and the flag wins.
	t.Setenv("TOKENBROKER_CONFIG", "/nonexistent/of-variable")
	command(t, "check-config").want(t, 2, "/nonexistent/of-variable")
	command(t, "check-config", "--config", "/nonexistent/of-flag").want(t, 2, "/nonexistent/of-flag")
}

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

const noSink = "audit: needs a sink: file.path, stdout or syslog; insecure_off serves without a record of who got what"

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
secrets:
  wrapping: {creation_paths: ["kv/data/oauth/*", azure/creds/crm]}
  references: [{mount: team/kv, prefix: crm/oauth}, {mount: others}]
upstream:
  ca_file: FILE
  insecure_http_loopback: true
  allowed_addresses: [10.0.0.0/8, "fd00::/8"]
limits: {max_message_bytes: 100000, max_deadline: 1m30s, max_concurrent_requests: 1, max_concurrent_streams: 1, max_connections: 1, max_connections_per_peer: 1, shutdown_grace: 5s, shutdown_delay: 1s}
admin: {address: "127.0.0.1:9090"}
tracing: {otlp_endpoint: "https://collector.example.org:4317", ca_file: FILE, sample_ratio: 0.5, max_traces_per_second: 1.5}
process: {lock_memory: required}
log: {level: debug, format: text}
`, nil},
		{"plaintext", "listen: {address: 'localhost:0', insecure_plaintext: true}\nstore: {embedded: {file: a, key_file: b}}\ncallers: [{name: a, identity: insecure-loopback, role: operator}]\n", nil},

		{"webhooks", sound + `notify:
  webhooks:
  - {name: pager, url: "https://hooks.example.org/x", secret_file: FILE, events: [rotation_failed], allowed_addresses: [10.0.0.0/8]}
  - name: pager
    url: http://hooks.example.org/x
    secret_file: /nonexistent/secret
    events: [rotation]
    ca_file: /nonexistent/ca
`, []string{
			"9: notify.webhooks[0].secret_file: holds 0 bytes; it must hold 32 to 4096, such as what `openssl rand -hex 32` makes",
			`10: notify.webhooks[1].name: is "pager", as another one's`,
			"11: notify.webhooks[1].url: http://hooks.example.org is plain http; only https is spoken",
			"12: notify.webhooks[1].secret_file: open /nonexistent/secret: no such file or directory",
			`13: notify.webhooks[1].events[0]: is "rotation"; known are [rotation_failed rotation_rolled_back rotation_stuck rotation_needs_operator using_previous_secret secret_expires_soon rotation_completed]`,
			"14: notify.webhooks[1].ca_file: open /nonexistent/ca: no such file or directory",
		}},
		{"empty", "", []string{
			"1: " + noSink,
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
		{"bundles", strings.Replace(sound, "  client_ca_file: FILE\n", `  trust_bundles:
  - {name: a, ca_file: FILE, crl_files: [FILE, FILE], trust_domain: a.example.org}
  - {name: b, ca_file: FILE}
  crl_expired: accept
  common_names: true
  unix_socket: {path: /run/tokenbroker/socket, mode: "0660"}
callers:
- {name: a, identity: "cn:A app", role: caller}
- {name: b, identity: "unix:uid=1000", role: caller}
`, 1), nil},
		{"UNIX socket alone", "listen:\n  address: ''\n  unix_socket: {path: s}\nstore: {embedded: {file: a, key_file: b}}\ncallers: [{name: a, identity: 'unix:uid=1000', role: operator}]\n", nil},
		{"nothing to listen on", "listen:\n  address: ''\n  unix_socket: {mode: '0600'}\nstore: {embedded: {file: a, key_file: b}}\n", []string{
			"2: listen.address: is empty, and there is no listen.unix_socket: there is nothing to listen on",
			"3: listen.unix_socket.path: is required with mode",
		}},
		{"UNIX socket alone with certificates", "listen:\n  address: ''\n  unix_socket: {path: s, mode: '0400'}" + files + "store: {embedded: {file: a, key_file: b}}\n", []string{
			"2: listen.address: is empty: what says how to serve TCP has no effect; remove it",
			`3: listen.unix_socket.mode: is "0400"; it must be octal and let the owner read and write, such as "0600"`,
		}},
		{"bundles that are wrong", "listen:\n  certificate_file: FILE\n  key_file: FILE\n  client_ca_file: FILE\n  crl_files: [/nonexistent/crl]\n  crl_expired: ignore\n  trust_bundles:\n  - {name: a, ca_file: FILE, trust_domain: A.example.org}\n  - {name: a, ca_file: /nonexistent/ca, crl_files: [/nonexistent/crl]}\nstore: {embedded: {file: a, key_file: b}}\n", []string{
			"5: listen.crl_files[0]: open /nonexistent/crl: no such file or directory",
			`6: listen.crl_expired: is "ignore"; it must be refuse or accept`,
			"7: listen.trust_bundles: cannot be combined with client_ca_file; make that a bundle too",
			`8: listen.trust_bundles[0].trust_domain: is "A.example.org"; it must be a SPIFFE trust domain such as example.org`,
			"9: listen.trust_bundles[1].ca_file: open /nonexistent/ca: no such file or directory",
			"9: listen.trust_bundles[1].crl_files[0]: open /nonexistent/crl: no such file or directory",
			`9: listen.trust_bundles[1].name: "a" is that of trust_bundles[0] already`,
		}},
		{"identities that nothing presents", sound + "callers:\n- {name: a, identity: 'cn:a', role: caller}\n- {name: b, identity: 'unix:uid=1', role: caller}\n", []string{
			"8: callers[0].identity: cn:a needs listen.common_names",
			"9: callers[1].identity: unix:uid=1 needs listen.unix_socket",
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
			`10: callers[2].identity: "crm" is none; an identity is one of spiffe://example.org/crm, dns:crm.example.org, cn:crm, jwt:https://issuer.example.org#crm, unix:uid=1000 or insecure-loopback`,
			`11: callers[3].identity: "dns:*.example.org" must name one host, such as dns:crm.example.org`,
			`13: callers[4].identity: "spiffe://example.org/a" is that of callers[0].identity already`,
			"15: callers[5].identity: insecure-loopback needs listen.insecure_plaintext",
		}},

		{"sources that are wrong", "listen:" + files + `store:
  vault: {address: https://vault.example.org, mount: kv, token_file: FILE}
secrets:
  wrapping:
    creation_paths: ["*"]
  references:
  - {mount: kv, prefix: a}
  - {prefix: a}
`, []string{
			`9: secrets.wrapping.creation_paths[0]: is "*"; it must be a path such as kv/data/oauth/acme, or the beginning of one and '*'`,
			`11: secrets.references[0].mount: is "kv", where the broker keeps its own records`,
			`12: secrets.references[1].mount: is ""; it must be a path of letters, digits, '.', '_', '-' and inner slashes`,
		}},
		{"sources without Vault", sound + "secrets: {references: [{mount: kv}]}\n", []string{"7: secrets: is about secrets in Vault and needs store.vault"}},

		{"no store", "listen:" + files, []string{"1: " + noSink, "1: store: needs exactly one of vault and embedded"}},
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

		{"limits and log", sound + "limits:\n  max_message_bytes: -1\n  max_deadline: -1s\n  max_concurrent_requests: -1\n  max_concurrent_streams: -1\n  shutdown_grace: -1s\n  shutdown_delay: -1s\n  max_connections: -1\n  max_connections_per_peer: -1\nlog:\n  level: loud\n  format: xml\n", []string{
			"8: limits.max_message_bytes: is negative", "9: limits.max_deadline: is negative", "10: limits.max_concurrent_requests: is negative",
			"11: limits.max_concurrent_streams: is negative", "12: limits.shutdown_grace: is negative", "13: limits.shutdown_delay: is negative",
			"14: limits.max_connections: is negative", "15: limits.max_connections_per_peer: is negative",
			`17: log.level: is "loud"; it must be debug, info, warn or error`, `18: log.format: is "xml"; it must be json or text`,
		}},
		{"nothing served, nothing locked, traces to loopback", sound + "admin: {address: off}\nprocess: {lock_memory: off}\ntracing: {otlp_endpoint: 'http://127.0.0.1:4317', insecure_loopback: true}\n", nil},
		{"admin, tracing and process", sound + "admin:\n  address: 7444\ntracing:\n  otlp_endpoint: http://collector:4317\n  ca_file: /nonexistent/ca\n  sample_ratio: 2\n  max_traces_per_second: -1\nprocess:\n  lock_memory: perhaps\n", []string{
			`8: admin.address: is "7444"; it must be host:port or off`,
			"10: tracing.otlp_endpoint: plain http needs insecure_loopback and an address on loopback",
			"11: tracing.ca_file: open /nonexistent/ca: no such file or directory",
			"12: tracing.sample_ratio: is 2; it must be between 0 and 1",
			"13: tracing.max_traces_per_second: is -1; it must be above 0 and at most 10000",
			`15: process.lock_memory: is "perhaps"; it must be auto, required or off`,
		}},
		{"tracing without a collector", sound + "tracing:\n  sample_ratio: 0.5\n", []string{"7: tracing.otlp_endpoint: is required with the other settings of tracing"}},
		{"addresses", sound + "upstream:\n  allowed_addresses:\n  - 10.0.0.0/8\n  - 10.0.0.1\n  - example.org\n", []string{
			`10: upstream.allowed_addresses[1]: is "10.0.0.1"; it must be a range such as 10.0.0.0/8`,
			`11: upstream.allowed_addresses[2]: is "example.org"; it must be a range such as 10.0.0.0/8`,
		}},
		{"jwt", sound + "jwt:\n  issuers:\n  - {issuer: 'https://i.example', audiences: [a], algorithms: [ES256], jwks_url: 'https://i.example/keys'}\ncallers: [{name: a, identity: 'jwt:https://i.example#s', role: caller}]\n", nil},
		{"jwt settings", sound + "jwt:\n  issuers:\n  - {issuer: 'https://i.example', algorithms: [HS256], discovery: true}\ncallers:\n- {name: a, identity: 'jwt:https://j.example#s', role: caller}\n", []string{
			`9: jwt.issuers[0].algorithms[0]: "HS256" is none of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA`,
			"9: jwt.issuers[0].audiences: is required: a token must say that it is for this service", `11: callers[0].identity: jwt:https://j.example#s needs an issuer "https://j.example" under jwt.issuers`,
		}},
		{"tokens", sound + "tokens: {keep_secret: 0s, unshared: true, max_requests: 9, max_requests_per_endpoint: 3, prewarm: [acme-crm], cached_clients: 5000, cached_tokens: 20000, max_blind: 30s}\n", nil},
		{"tokens settings", sound + "tokens:\n  keep_secret: 25h\n  max_requests: -1\n  max_requests_per_endpoint: -1\n  prewarm: [a, clients/b]\n  cached_clients: -1\n  cached_tokens: -1\n  max_blind: 29s\n", []string{
			"8: tokens.keep_secret: is 25h0m0s; it must lie between 0 and 24h0m0s", "9: tokens.max_requests: is negative", "10: tokens.max_requests_per_endpoint: is negative",
			`11: tokens.prewarm[1]: is "clients/b"; it must be the id of a client, such as acme-crm`,
			"12: tokens.cached_clients: is negative", "13: tokens.cached_tokens: is negative",
			"14: tokens.max_blind: is 29s; it must be 0, for no limit, or at least 30s",
		}},
		{"clients", sound + "clients: {purge_deleted_after: 720h}\n", nil},
		{"clients settings", sound + "clients:\n  purge_deleted_after: 1h\n", []string{"8: clients.purge_deleted_after: is 1h0m0s; it must be 0 for never, or at least 24h0m0s"}},
		{"audit", sound + "audit: {key_file: a.key, file: {path: audit.log, max_bytes: 100000000}, stdout: true, syslog: 'udp://loghost:514', sync_always: true}\n", nil},
		{"audit without a sink", sound + "audit: {key_file: a.key}\n", []string{"7: " + noSink}},
		{"audit without a key", sound + "audit: {stdout: true}\n", []string{"7: audit.key_file: is required; the file is made if it is not there"}},
		{"audit off and on", sound + "audit: {stdout: true, insecure_off: true}\n", []string{"7: audit.insecure_off: cannot be combined with sinks or a key; remove one or the other"}},
		{"audit settings", sound + "audit:\n  key_file: a.key\n  syslog: loghost\n  file: {max_bytes: 1}\n", []string{
			`9: audit.syslog: is "loghost"; it must be local, udp://host:port, tcp://host:port or unix:///path`,
			"10: audit.file.max_bytes: is 1; it must be 0 or at least 1048576", "10: audit.file.path: is required with max_bytes",
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
			file := test.file
			if strings.Contains(file, "store:") && !strings.Contains(file, "audit:") {
				file += "audit: {insecure_off: true}\n" // what these are about is something else
			}
			path = write(t, "config.yaml", strings.ReplaceAll(file, "FILE", path))
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
	got := command(t, "check-config", "--config", write(t, "c.yaml", strings.ReplaceAll(sound+"audit: {insecure_off: true}\n", "FILE", path)))
	got.want(t, 0)
	if !strings.Contains(got.stdout, "nobody may call") {
		t.Errorf("it printed %q, want a warning that callers is empty", got.stdout)
	}
}

// TestTableOfWhomNothingPresents is refused like such a list.
func TestTableOfWhomNothingPresents(t *testing.T) {
	table := write(t, "access.yaml", "callers:\n  - {name: a, identities: ['unix:uid=1', 'dns:a.example.org', 'insecure-loopback']}\n"+
		"rules:\n  - {callers: [a], permissions: [token.get], clients: ['*']}\n...\n")
	path := write(t, "config.yaml", "")
	got := command(t, "check-config", "--config", write(t, "c.yaml", strings.ReplaceAll(sound, "FILE", path)+"access: {file: "+table+"}\n"))
	got.want(t, 2, "access.file: unix:uid=1 needs listen.unix_socket")
	got.want(t, 2, "access.file: insecure-loopback needs listen.insecure_plaintext")
}

// TestDefaults are those of a file that says the least.
func TestDefaults(t *testing.T) {
	path := write(t, "config.yaml", "")
	cfg, err := loadConfig(write(t, "c.yaml", strings.ReplaceAll(sound+"audit: {insecure_off: true}\n", "FILE", path)))
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

package config

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func valid() *Agent {
	return &Agent{
		Version:   Version,
		Lifecycle: Sidecar,
		Vault: Vault{Address: "https://vault.vault.svc:8200", Namespace: "team", Proxy: "http://proxy:3128", Timeout: Duration(time.Minute),
			ClientCert: "/tls/tls.crt", ClientKey: "/tls/tls.key", Headers: map[string]string{"X-Team": "shop"}, Auth: Auth{
				Method: "kubernetes", Mount: "kubernetes", Role: "payments", Audience: "vault", TokenPath: TokenPath,
			}},
		Files: []File{
			{Path: "db.env", Secret: "kv/app", Format: FormatEnv, KV: 2, Mode: 0o400},
			{Path: "tls/key", Secret: "kv/app", Format: FormatRaw, Key: "key", Mode: 0o440},
			{Path: "conf", Template: "$$ $(HOME) <&> \u2028 {{ . }}", Mode: 0o444, Optional: true},
			{Path: "pki", Secret: "pki/issue/web", Data: map[string]any{"common_name": "web", "ttl": json.Number("3600"), "alt_names": []any{"a", "b"}},
				Files: map[string]string{"tls.crt": "certificate", "ca/ca.crt": "issuing_ca"}, Mode: 0o444, Refresh: Duration(time.Hour)},
		},
		TokenFile: &TokenFile{Path: "token", Format: TokenJSON, Mode: 0o400, CA: true, WrapTTL: Duration(time.Minute)},
		Serve:     ":9102",
		Local:     &Local{Socket: "vault.sock", Mode: 0o660, Proxy: &Proxy{RequireHeader: true}, Quit: true},
		Notify: []Notification{
			{HTTP: &HTTPRequest{URL: "http://127.0.0.1:8080/-/reload", Method: "PUT"}},
			{Signal: &ProcessSignal{Process: "nginx", Signal: "SIGHUP"}},
		},
		RevokeOnExit: new(bool),
		Refresh:      Duration(5 * time.Minute), StartTimeout: Duration(2 * time.Minute),
		Log: Log{Level: "debug", Format: "text"},
	}
}

// What the injector writes is what the agent reads, and holds nothing that the
// kubelet would expand.
func TestRoundTrip(t *testing.T) {
	a := valid()
	data, err := a.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(data), "$") {
		t.Errorf("encoded with a dollar sign: %s", data)
	}
	b, err := Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(a, b) {
		t.Errorf("got %+v, want %+v", b, a)
	}
}

func TestDecodeErrors(t *testing.T) {
	data, err := valid().Encode()
	if err != nil {
		t.Fatal(err)
	}
	good := string(data)
	for _, c := range []struct{ name, data, want string }{
		{"empty", "", "decoding agent configuration"},
		{"no JSON", "x", "decoding agent configuration"},
		{"two values", good + "{}", "decoding agent configuration"},
		{"unknown field", strings.Replace(good, `"refresh"`, `"refesh"`, 1), `unknown field "refesh"`},
		{"unknown nested field", strings.Replace(good, `"mount"`, `"mounts"`, 1), `unknown field "mounts"`},
		{"other version", `{"version":2,"novel":true}`, "agent configuration has version 2, this agent reads version 1"},
		{"no version", `{}`, "agent configuration has version 0"},
		{"duration without unit", strings.Replace(good, `"5m0s"`, `"5"`, 1), `duration "5" is not a number with a unit`},
		{"duration as number", strings.Replace(good, `"5m0s"`, `5`, 1), `duration 5 is not a string`},
		{"mode as number", strings.Replace(good, `"0400"`, `400`, 1), `mode 400 is not a string (quote it: "0400")`},
		{"mode", strings.Replace(good, `"0400"`, `"0999"`, 1), `mode "0999" is not an octal number`},
	} {
		if _, err := Decode([]byte(c.data)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
		}
	}
}

// Every invalid setting is named, with what is allowed, all at once.
func TestValidate(t *testing.T) {
	if err := valid().Validate(); err != nil {
		t.Errorf("valid: %v", err)
	}
	for _, c := range []struct {
		name   string
		change func(*Agent)
		want   string
	}{
		{"address", func(a *Agent) { a.Vault.Address = "vault:8200" }, `vault.address: "vault:8200" has no scheme and host`},
		{"address path", func(a *Agent) { a.Vault.Address = "https://vault/v1" }, `vault.address: "https://vault/v1" has more than scheme, host and port`},
		{"address password", func(a *Agent) { a.Vault.Address = "https://u:hunter2@vault" }, `vault.address: holds credentials`},
		{"address password that is no URL", func(a *Agent) { a.Vault.Address = "https://u:hunter%2@vault" }, `vault.address: holds credentials`},
		{"address scheme", func(a *Agent) { a.Vault.Address = "unix:///x" }, `vault.address: "unix:///x" has no scheme and host`},
		{"CA", func(a *Agent) { a.Vault.CA = "x" }, `vault.ca: holds no certificate (a PEM bundle)`},
		{"two CAs", func(a *Agent) { a.Vault.CA, a.Vault.CAFile = "x", "/y" }, `vault.ca: caFile is set too`},
		{"method", func(a *Agent) { a.Vault.Auth.Method = "ldap" }, `vault.auth.method: "ldap" (kubernetes, jwt, approle, cert, token)`},
		{"mount", func(a *Agent) { a.Vault.Auth.Mount = "auth/" }, `vault.auth.mount: "auth/"`},
		{"role", func(a *Agent) { a.Vault.Auth.Role = "" }, `vault.auth.role: empty`},
		{"token path", func(a *Agent) { a.Vault.Auth.TokenPath = "token" }, `vault.auth.tokenPath: "token" (an absolute path)`},
		{"no files", func(a *Agent) { a.Files, a.TokenFile, a.Local = nil, nil, nil }, `files: empty`},
		{"mode", func(a *Agent) { a.Files[0].Mode = 0 }, `files[0]: "db.env" has mode 0000 or none`},
		{"refresh", func(a *Agent) { a.Refresh = Duration(time.Second) }, `refresh: 1s (at least 5s)`},
		{"start timeout", func(a *Agent) { a.StartTimeout = 0 }, `startTimeout: 0s (at least 1s)`},
		{"retire grace", func(a *Agent) { a.RetireGrace = -1 }, `retireGrace: -1ns (0s to 24h0m0s)`},
		{"long retire grace", func(a *Agent) { a.RetireGrace = Duration(25 * time.Hour) }, `retireGrace: 25h0m0s (0s to 24h0m0s)`},
		{"level", func(a *Agent) { a.Log.Level = "loud" }, `log.level: "loud" (debug, info, warn, error)`},
		{"format", func(a *Agent) { a.Log.Format = "xml" }, `log.format: "xml" (json, text)`},
		{"twice", func(a *Agent) { a.Files[1].Path = "db.env" }, `files: path "db.env" stands more than once`},
		{"below a file", func(a *Agent) { a.Files[1].Path = "conf/key" }, `files: path "conf/key" lies below the file "conf"`},
		{"both", func(a *Agent) { a.Files[0].Template = "x" }, `files[0]: "db.env" has both template and secret`},
		{"neither", func(a *Agent) { a.Files[0].Secret = "" }, `files[0]: "db.env" has neither template nor secret`},
		{"template and key", func(a *Agent) { a.Files[2].Key = "x" }, `files[2]: "conf" has key beside template`},
		{"format", func(a *Agent) { a.Files[0].Format = "yml" }, `files[0]: "db.env" has format "yml" (env, json, yaml, properties, raw, pem)`},
		{"no format", func(a *Agent) { a.Files[0].Format = "" }, `files[0]: "db.env" has no format`},
		{"raw without key", func(a *Agent) { a.Files[1].Key = "" }, `files[1]: "tls/key" has format raw without key`},
		{"env with key", func(a *Agent) { a.Files[0].Key = "x" }, `files[0]: "db.env" has key "x" with format env`},
		{"pem without key", func(a *Agent) { a.Files[0].Format = FormatPEM }, `files[0]: "db.env" has format pem with key "" (one key, or several as in "certificate+ca_chain")`},
		{"pem with half a key", func(a *Agent) { a.Files[0].Format, a.Files[0].Key = FormatPEM, "a++b" }, `files[0]: "db.env" has format pem with key "a++b"`},
		{"pem file with half a key", func(a *Agent) { a.Files[3].Format, a.Files[3].Files = FormatPEM, map[string]string{"x": "a+"} }, `files[3]: "pki": files: "x" has key "a+" (one key`},
		{"missing keys of a format", func(a *Agent) { a.Files[0].AllowMissingKeys = true }, `files[0]: "db.env" has allowMissingKeys without template`},
		{"shown directory", func(a *Agent) { a.Show.Dirs = []string{"/etc/../root"} }, `show.dirs: "/etc/../root" (an absolute path such as "/etc/app")`},
		{"kv", func(a *Agent) { a.Files[0].KV = 3 }, `files[0]: "db.env" has kv 3`},
		{"secret", func(a *Agent) { a.Files[0].Secret = "../sys" }, `files[0]: "db.env" has secret "../sys"`},
		{"lifecycle", func(a *Agent) { a.Lifecycle = "daemon" }, `lifecycle: "daemon" (native, init, sidecar)`},
		{"half a client certificate", func(a *Agent) { a.Vault.ClientKey = "" }, `vault.clientCert: clientCert and clientKey belong together`},
		{"proxy password", func(a *Agent) { a.Vault.Proxy = "http://u:hunter2@proxy" }, `vault.proxy: holds credentials`},
		{"proxy", func(a *Agent) { a.Vault.Proxy = "proxy:3128" }, `vault.proxy: "proxy:3128" has no scheme and host`},
		{"proxy with TLS", func(a *Agent) { a.Vault.Proxy = "HTTPS://proxy:3128" }, `vault.proxy: "HTTPS://proxy:3128" is not spoken to in plain HTTP (such as "http://proxy.example:3128"`},
		{"timeout", func(a *Agent) { a.Vault.Timeout = 1 }, `vault.timeout: 1ns (at least 1s)`},
		{"header", func(a *Agent) { a.Vault.Headers = map[string]string{"a b": ""} }, `vault.headers: "a b" is no name of a header`},
		{"header with credentials", func(a *Agent) { a.Vault.Headers = map[string]string{"authorization": "hunter2"} }, `vault.headers: "authorization" would hold credentials`},
		{"header of ours", func(a *Agent) { a.Vault.Headers = map[string]string{"x-vault-token": "hunter2"} }, `vault.headers: "x-vault-token" is set by the agent`},
		{"header of two lines", func(a *Agent) { a.Vault.Headers = map[string]string{"X-A": "a\nb"} }, `vault.headers: "X-A" has a value with control characters`},
		{"template and data", func(a *Agent) { a.Files[2].Data = map[string]any{"a": "b"} }, `files[2]: "conf" has data beside template`},
		{"template and files", func(a *Agent) { a.Files[2].Files = map[string]string{"a": "b"} }, `files[2]: "conf" has files beside template`},
		{"files and format", func(a *Agent) { a.Files[3].Format = FormatEnv }, `files[3]: "pki" has format "env" beside files (pem; without it exact bytes)`},
		{"empty files", func(a *Agent) { a.Files[3].Files = map[string]string{} }, `files[3]: "pki" has no files`},
		{"file outside", func(a *Agent) { a.Files[3].Files = map[string]string{"../x": "k"} }, `files[3]: "pki": files: path "../x" is not allowed`},
		{"file without key", func(a *Agent) { a.Files[3].Files = map[string]string{"x": ""} }, `files[3]: "pki": files: "x" has no key`},
		{"file of another entry", func(a *Agent) { a.Files[0].Path = "pki/tls.crt" }, `files: path "pki/tls.crt" stands more than once`},
		{"data", func(a *Agent) { a.Files[3].Data["ttl"] = map[string]any{} }, `files[3]: "pki" has data with a map or nothing at "ttl"`},
		{"data and kv", func(a *Agent) { a.Files[3].KV = 1 }, `files[3]: "pki" has kv beside data`},
		{"entry's refresh", func(a *Agent) { a.Files[0].Refresh = 1 }, `files[0]: "db.env" has refresh 1ns (at least 5s)`},
		{"token's path", func(a *Agent) { a.TokenFile.Path = "/token" }, `tokenFile: path "/token" is not allowed`},
		{"token's format", func(a *Agent) { a.TokenFile.Format = "xml" }, `tokenFile: "token" has format "xml" (raw, json)`},
		{"token's mode", func(a *Agent) { a.TokenFile.Mode = 0 }, `tokenFile: "token" has mode 0000 or none`},
		{"token's place", func(a *Agent) { a.TokenFile.Path = "db.env" }, `files: path "db.env" stands more than once`},
		{"a wrapping of no time", func(a *Agent) { a.TokenFile.WrapTTL = 1 }, `tokenFile: "token" has wrapTTL 1ns (whole seconds from 10s to 24h0m0s)`},
		{"the CA's place", func(a *Agent) { a.Files[1].Path = "ca.crt" }, `files: path "ca.crt" stands more than once`},
		{"serve nowhere", func(a *Agent) { a.Serve = "9102" }, `serve: "9102" (an IP address and a port, or a port alone`},
		{"serve a name", func(a *Agent) { a.Serve = "localhost:9102" }, `serve: "localhost:9102" (an IP address`},
		{"serve port 0", func(a *Agent) { a.Serve = ":0" }, `serve: ":0" (an IP address`},
		{"local once", func(a *Agent) { a.Lifecycle = Init }, `local: lifecycle init ends before`},
		{"local for nothing", func(a *Agent) { a.Local.Proxy, a.Local.Quit = nil, false }, `local: offers nothing (proxy, quit)`},
		{"local nowhere", func(a *Agent) { a.Local.Socket = "" }, `local: has both listen and socket, or neither`},
		{"local twice", func(a *Agent) { a.Local.Listen = "127.0.0.1:8200" }, `local: has both listen and socket, or neither`},
		{"local for others", func(a *Agent) { a.Local = &Local{Listen: "10.0.0.1:8200", Quit: true} }, `local.listen: "10.0.0.1:8200" can be reached from outside the pod`},
		{"local everywhere", func(a *Agent) { a.Local = &Local{Listen: ":8200", Quit: true} }, `local.listen: ":8200" can be reached from outside the pod`},
		{"local on the other port", func(a *Agent) { a.Local = &Local{Listen: "[::1]:9102", Quit: true} }, `local.listen: "[::1]:9102" has the port of serve`},
		{"mode of no socket", func(a *Agent) { a.Local = &Local{Listen: "127.0.0.1:8200", Mode: 0o600, Quit: true} }, `local.mode: 0600 without a socket`},
		{"mode of a closed socket", func(a *Agent) { a.Local.Mode = 0o440 }, `local.mode: 0440 (such as "0600"`},
		{"socket below", func(a *Agent) { a.Local.Socket = "run/vault.sock" }, `local.socket: "run/vault.sock" is no name of a file`},
		{"socket of the publisher", func(a *Agent) { a.Local.Socket = "..data" }, `local.socket: "..data" is no name of a file`},
		{"long socket", func(a *Agent) { a.Local.Socket = strings.Repeat("s", 61) }, `is too long`},
		{"socket on a file", func(a *Agent) { a.Local.Socket = "pki" }, `local.socket: "pki" is in the way of the file "pki/`},
		{"notify nobody", func(a *Agent) { a.Notify[0].HTTP = nil }, `notify[0]: is empty (http or signal)`},
		{"notify both", func(a *Agent) { a.Notify[0].Signal = a.Notify[1].Signal }, `notify[0]: has both http and signal`},
		{"notify outside", func(a *Agent) { a.Notify[0].HTTP.URL = "http://example.com/" }, `notify[0]: http.url "http://example.com/" leaves the pod`},
		{"notify password", func(a *Agent) { a.Notify[0].HTTP.URL = "http://u:hunter2@127.0.0.1/" }, `notify[0]: http.url holds credentials`},
		{"notify no URL", func(a *Agent) { a.Notify[0].HTTP.URL = "127.0.0.1:80" }, `notify[0]: http.url "127.0.0.1:80" is not a URL`},
		{"notify query", func(a *Agent) { a.Notify[0].HTTP.URL = "http://example.com/?token=hunter2" }, `notify[0]: http.url "http://example.com/" leaves the pod`},
		{"notify zone", func(a *Agent) { a.Notify[0].HTTP.URL = "http://[::1%25eth0]/" }, `leaves the pod (a loopback host`},
		{"notify port", func(a *Agent) { a.Notify[0].HTTP.URL = "http://127.0.0.1:65536/" }, `notify[0]: http.url "http://127.0.0.1:65536/" has no port`},
		{"notify port 0", func(a *Agent) { a.Notify[0].HTTP.URL = "http://localhost:0/" }, `notify[0]: http.url "http://localhost:0/" has no port`},
		{"notify no port", func(a *Agent) { a.Notify[0].HTTP.URL = "http://[::1]:/" }, `notify[0]: http.url "http://[::1]:/" has no port`},
		{"notify method", func(a *Agent) { a.Notify[0].HTTP.Method = "DELETE" }, `notify[0]: http.method "DELETE" (GET, POST, PUT, PATCH)`},
		{"notify process", func(a *Agent) { a.Notify[1].Signal.Process = "/bin/nginx" }, `notify[1]: signal.process "/bin/nginx"`},
		{"notify signal", func(a *Agent) { a.Notify[1].Signal.Signal = "SIGKILL" }, `notify[1]: signal.signal "SIGKILL" (SIGHUP, SIGUSR1`},
		{"notify of one publication", func(a *Agent) { a.Lifecycle = Init }, `notify: lifecycle init publishes once`},
		{"secret with query", func(a *Agent) { a.Files[0].Secret = "kv/app?x" }, `files[0]: "db.env" has secret "kv/app?x"`},
	} {
		a := valid()
		c.change(a)
		err := a.Validate()
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
			continue
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the message holds the password: %v", c.name, err)
		}
		a.Version = 7
		if got := a.Validate(); !strings.Contains(got.Error(), c.want) || !strings.Contains(got.Error(), "version: 7 (1)") {
			t.Errorf("%s: not all problems at once: %v", c.name, got)
		}
	}
}

// A notification may go to any loopback host, and to any port.
func TestNotificationURL(t *testing.T) {
	for _, url := range []string{"http://127.0.0.1/", "http://127.9.9.9:1/-/reload", "https://[::1]:65535", "http://localhost:8080/?a=b"} {
		n := Notification{HTTP: &HTTPRequest{URL: url}}
		if errs := n.Validate(); len(errs) != 0 {
			t.Errorf("%s: %v", url, errs)
		}
	}
}

func TestCheckPath(t *testing.T) {
	for _, p := range []string{"a", "a/b", ".env", "a..b", "ä", "a b", strings.Repeat("x", 255)} {
		if err := CheckPath(p); err != nil {
			t.Errorf("%q: %v", p, err)
		}
	}
	for _, p := range []string{"", ".", "..", "/a", "a/", "a//b", "./a", "a/../b", "../a", "..data", "a/..b", `a\b`, "a\x00", strings.Repeat("x", 256), strings.Repeat("a/", 600) + "a"} {
		if err := CheckPath(p); err == nil {
			t.Errorf("%q is accepted", p)
		}
	}
}

// A long configuration travels in parts, none of which ends inside a character.
func TestEnv(t *testing.T) {
	for _, size := range []int{10, 60 << 10, 70 << 10, 300 << 10} {
		a := valid()
		a.Files[2].Template = "x" + strings.Repeat("é", size/2)
		vars, err := a.Env()
		if err != nil {
			t.Fatal(err)
		}
		if one := len(vars) == 1 && vars[0].Name == EnvConfig; one != (size < 64<<10) {
			t.Errorf("%d bytes: %d variables, first %s", size, len(vars), vars[0].Name)
		}
		env := make(map[string]string)
		for _, v := range vars {
			env[v.Name] = v.Value
			if len(v.Value) > 64<<10 || !utf8.ValidString(v.Value) {
				t.Errorf("%d bytes: %s has %d bytes or is cut inside a character", size, v.Name, len(v.Value))
			}
		}
		data, err := FromEnv(func(name string) (string, bool) { v, ok := env[name]; return v, ok })
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(data)
		if err != nil || !reflect.DeepEqual(got, a) {
			t.Errorf("%d bytes: not the same after the way through the environment (%v)", size, err)
		}
	}
}

func TestFromEnvErrors(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		want string
	}{
		{nil, "LATCHKEY_CONFIG is not set"},
		{map[string]string{EnvConfig: "{}", EnvParts: "1"}, "both LATCHKEY_CONFIG and LATCHKEY_CONFIG_PARTS are set"},
		{map[string]string{EnvParts: "x"}, `LATCHKEY_CONFIG_PARTS is "x"`},
		{map[string]string{EnvParts: "0"}, `LATCHKEY_CONFIG_PARTS is "0"`},
		{map[string]string{EnvParts: "2", EnvConfig + "_1": "{"}, "LATCHKEY_CONFIG_2 is missing"},
	} {
		_, err := FromEnv(func(name string) (string, bool) { v, ok := c.env[name]; return v, ok })
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: got %v, want %s", c.env, err, c.want)
		}
	}
}

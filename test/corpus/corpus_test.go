package corpus

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul-template/config"
	"github.com/hashicorp/consul-template/dependency"
	"github.com/hashicorp/consul-template/template"
	"github.com/hashicorp/vault/api"
	"golang.org/x/text/cases"
	"golang.org/x/text/language"

	agent "github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/internal/render"
	"github.com/latchkey-dev/latchkey/test/integration/vaulttest"
)

// differences are the cases whose outcome is another one than consul-template's,
// each with the reason. One that vanishes fails the test.
var differences = map[string]string{
	"secrets: a secret in a variable":        "consul-template executes a template before it has the secret, and strict keys of nothing end that",
	"secrets: index of a missing key":        "strict keys hold for index as they do for fields; lenient ones do not",
	"secrets: a variable that is not shown":  "the agent's environment is the pod author's only as far as the operator shows it",
	"secrets: a file of a mounted ConfigMap": "consul-template takes the directory ..data for one outside",
	"helpers: a pipeline of addresses":       "the library behind it needs the program ip, and 2 % of the agent's size",
}

// data is what kv/app holds.
const data = `{
	"user": "ada", "password": "p4ss w0rd&<>\"'$` + "`" + `\\", "port": 5432, "ratio": 1.5, "big": 12345678901234567890, "exp": 1e3, "three": 3, "on": true, "off": false, "none": null, "empty": "",
	"list": ["c", "a", "b", "a"], "numbers": [3, 1, 2], "map": {"b": "2", "a": "1", "n": 7}, "nested": {"x": {"y": {"z": "deep"}}}, "next": "other",
	"json": "{\"k\":[1,2.5,\"s\",null,true],\"html\":\"<a&b>\"}", "yaml": "a: 1\nb:\n  - x\n  - yes\nc: {d: e}\n", "pairs": "a=1,b=2,c", "csv": " x,y , z ", "multi": "one\n\ntwo\nthree\n",
	"b64": "aGVsbG8gd29ybGQ=", "b64url": "_-8=", "utf8": "Grüße, 日本 😀", "flat": {"a/b/c": "1", "a/b/d": "2", "e": "3"}, "numstr": "42", "fltstr": "2.50", "boolstr": "true",
	"date": "2024-02-29T12:34:56Z", "url": "https://u:p@host.example:8443/p/a?q=1#f", "sentence": "the quick brown fox jumps"
}`

// An outcome is what a renderer made of a case, or why it made nothing.
type outcome struct{ text, err string }

func (o outcome) String() string {
	if o.err != "" {
		return "error: " + o.err
	}
	return fmt.Sprintf("%q", o.text)
}

// same holds where both made the same bytes, or both refused.
func same(a, b outcome) bool { return a.text == b.text && (a.err == "") == (b.err == "") }

func TestCorpus(t *testing.T) {
	log.SetOutput(io.Discard) // of consul-template's
	all, err := Cases()
	if err != nil {
		t.Fatal(err)
	}
	shown := shownFiles(t)
	for i := range all {
		all[i].Template = strings.ReplaceAll(all[i].Template, "SHOWN", shown)
	}
	v := vaulttest.Start(t, vaulttest.Options{TLS: true})
	setUp(t, v)
	ours := byAgent(t, v, shown, all)
	equal, differ := 0, 0
	for _, c := range all {
		theirs := byConsulTemplate(t, v, shown, c)
		reason, listed := differences[c.Name]
		switch {
		case same(ours[c.Name], theirs) && listed:
			t.Errorf("%s: listed as a difference (%s), and is the same: %s", c.Name, reason, theirs)
		case same(ours[c.Name], theirs):
			equal++
		case listed:
			differ++
		default:
			t.Errorf("%s: %s\n  theirs %s\n  ours   %s", c.Name, c.Template, theirs, ours[c.Name])
		}
		delete(differences, c.Name)
	}
	for name := range differences {
		t.Errorf("%s: listed as a difference, and is no case", name)
	}
	t.Logf("%d templates: %d byte-equal or refused by both, %d different with a reason", len(all), equal, differ)
}

// Every function stands in some case.
func TestCorpusCoversAllFunctions(t *testing.T) {
	all, err := Cases()
	if err != nil {
		t.Fatal(err)
	}
	called := make(map[string]bool)
	for _, c := range all {
		for _, word := range regexp.MustCompile(`\w+`).FindAllString(c.Template, -1) {
			called[word] = true
		}
	}
	for _, name := range render.Functions() {
		if !called[name] {
			t.Errorf("no case calls %s", name)
		}
	}
}

// shownFiles makes the directory whose files templates may read, beside one that
// they may not.
func shownFiles(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	shown := filepath.Join(dir, "shown")
	write := func(name, text string) {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{shown, filepath.Join(shown, "..data"), filepath.Join(shown, "data")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(dir, "outside.txt"), "outside")
	write(filepath.Join(shown, "shown.txt"), "what is shown\n")
	write(filepath.Join(shown, "data", "link.txt"), "what a link shows")
	write(filepath.Join(shown, "..data", "map.txt"), "what a ConfigMap shows")
	for link, target := range map[string]string{"link.txt": "data/link.txt", "map.txt": "..data/map.txt", "escape.txt": "../outside.txt"} {
		if err := os.Symlink(target, filepath.Join(shown, link)); err != nil {
			t.Fatal(err)
		}
	}
	return shown
}

// setUp writes what the cases read.
func setUp(t *testing.T, v *vaulttest.Vault) {
	t.Helper()
	var app map[string]any
	dec := json.NewDecoder(strings.NewReader(data))
	dec.UseNumber()
	if err := dec.Decode(&app); err != nil {
		t.Fatal(err)
	}
	v.KV("app", app)
	v.KV("other", map[string]any{"k": "other"})
	v.KV("versions", map[string]any{"v": "one"})
	v.KV("versions", map[string]any{"v": "two", "n": 2})
	for _, name := range []string{"b", "a", "sub/c"} {
		v.KV("team/"+name, map[string]any{"k": name})
	}
	v.KV("team/sub", map[string]any{"k": "sub"})
	v.KV("kv1/app", map[string]any{"user": "grace", "port": 6543})
	v.Mount("transit", "transit", api.MountConfigInput{})
	v.Write("transit/keys/app", nil)
	v.Write("transit/keys/convergent", map[string]any{"derived": true, "convergent_encryption": true})
	cipher := v.Write("transit/encrypt/convergent", map[string]any{"plaintext": "aGVsbG8=", "context": "YQ=="})
	v.KV("cipher", map[string]any{"text": cipher["ciphertext"]})
	for _, mount := range []string{"pki", "int"} {
		v.Mount(mount, "pki", api.MountConfigInput{MaxLeaseTTL: "87600h"})
	}
	v.Write("pki/root/generate/internal", map[string]any{"common_name": "root", "ttl": "87600h"})
	csr := v.Write("int/intermediate/generate/internal", map[string]any{"common_name": "intermediate"})
	signed := v.Write("pki/root/sign-intermediate", map[string]any{"csr": csr["csr"], "format": "pem_bundle", "ttl": "8760h"})
	v.Write("int/intermediate/set-signed", map[string]any{"certificate": signed["certificate"]})
	for _, mount := range []string{"pki", "int"} {
		v.Write(mount+"/roles/web", map[string]any{"allowed_domains": "example.com", "allow_subdomains": true, "max_ttl": "72h"})
	}
	v.Role("corpus", vaulttest.Read("kv/*", "kv1/*", "transit/*", "pki/issue/*", "int/issue/*", "sys/tools/hash"), nil)
}

// byAgent renders all cases with one agent. Its first set waits for every file,
// so that it is started again without those that it cannot render.
func byAgent(t *testing.T, v *vaulttest.Vault, shown string, all []Case) map[string]outcome {
	t.Helper()
	var files []agent.File
	name := make(map[string]string) // by path
	for i, c := range all {
		path := fmt.Sprintf("case-%03d", i)
		name[path] = c.Name
		files = append(files, agent.File{Path: path, Mode: 0o440, Template: c.Template, AllowMissingKeys: c.Lenient})
	}
	out := make(map[string]outcome)
	a := v.Agent("corpus", files...)
	a.Config.Refresh = agent.Duration(time.Hour)
	a.Config.Show = agent.Show{Dirs: []string{shown}, Env: []string{"LATCHKEY_CORPUS_UNSET"}}
	for {
		a.Config.Files = slices.DeleteFunc(a.Config.Files, func(f agent.File) bool { return out[name[f.Path]].err != "" })
		known := len(out)
		a.Start()
		vaulttest.Wait(t, "the files or a reason", func() error {
			ready, reason := a.Ready()
			for _, found := range toldOf.FindAllStringSubmatch(a.Log(), -1) {
				out[name[found[1]]] = outcome{err: found[2]}
			}
			switch {
			case !a.Running():
				t.Fatalf("the agent has ended: %s", a.LastWords())
			case !ready && len(out) == known:
				return errors.New(reason)
			}
			return nil
		})
		if ready, _ := a.Ready(); ready {
			break
		}
		a.Terminate()
	}
	for _, f := range a.Config.Files {
		text, err := a.File(f.Path)
		if err != nil {
			t.Fatal(err)
		}
		out[name[f.Path]] = outcome{text: text}
	}
	return out
}

// toldOf is how the agent's log says that it cannot render a file.
var toldOf = regexp.MustCompile(`"level":"ERROR","msg":"path \\"(case-\d+)\\": (.*?)","`)

// byConsulTemplate renders a case as consul-template's runner does: the template
// is executed, what it asked for and lacks is fetched, and again.
func byConsulTemplate(t *testing.T, v *vaulttest.Vault, shown string, c Case) outcome {
	t.Helper()
	dependency.SetVaultDefaultLeaseDuration(config.DefaultVaultLeaseDuration)
	dependency.SetVaultLeaseRenewalThreshold(config.DefaultLeaseRenewalThreshold)
	clients := dependency.NewClientSet()
	if err := clients.CreateVaultClient(&dependency.CreateVaultClientInput{Address: v.Address, Token: v.Root.Token(), SSLEnabled: true, SSLVerify: true, SSLCACert: v.CAFile}); err != nil {
		t.Fatal(err)
	}
	defer clients.Stop()
	tmpl, err := template.NewTemplate(&template.NewTemplateInput{Contents: c.Template, ErrMissingKey: !c.Lenient, SandboxPath: shown, Destination: filepath.Join(t.TempDir(), "out")})
	if err != nil {
		t.Fatalf("%s: %v", c.Name, err)
	}
	brain := template.NewBrain()
	for range 10 {
		result, err := tmpl.Execute(&template.ExecuteInput{Brain: brain})
		if err != nil {
			return outcome{err: err.Error()}
		}
		missing := result.Missing.List()
		if len(missing) == 0 {
			return outcome{text: string(result.Output)}
		}
		for _, d := range missing {
			answer, _, err := d.Fetch(clients, nil)
			if err != nil {
				return outcome{err: err.Error()}
			}
			brain.Remember(d, answer)
		}
	}
	t.Fatalf("%s: asks for ever more", c.Name)
	return outcome{}
}

// toTitle is our own, since the library that consul-template takes is 3 % of the
// agent's size.
func TestTitle(t *testing.T) {
	alphabet := []rune("aBz1 _-'.:,;/\\\t\nß@éЖǆﬁ·’")
	random := rand.New(rand.NewPCG(1, 2))
	title := cases.Title(language.Und, cases.NoLower)
	for range 20_000 {
		var text []rune
		for range random.IntN(12) {
			text = append(text, alphabet[random.IntN(len(alphabet))])
		}
		s := string(text)
		r, err := render.New(agent.File{Path: "f", Template: fmt.Sprintf("{{ %q | toTitle }}", s)}, render.Options{})
		if err != nil {
			t.Fatal(err)
		}
		result, err := r.Render(nil, "")
		if err != nil {
			t.Fatal(err)
		}
		if got, want := string(result.Files[0].Content.Reveal()), title.String(s); got != want {
			t.Fatalf("%q: got %q, want %q", s, got, want)
		}
	}
}

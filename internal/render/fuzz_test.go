package render

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// planted are the secrets in what the fuzzed templates read. They hold nothing
// that a template would state by chance.
var planted = []string{"Zq7xKp2vWm9t", "314159265358979", "Qk3jVb8nXr5y", "1.6180339887498"}

// plantedLookup answers every request with the planted secrets, in all the kinds
// of values that Vault has.
func plantedLookup(q Request) (*Secret, error) {
	word, number, key, ratio := planted[0], planted[1], planted[2], planted[3]
	if q.List {
		return NewSecret(View{Data: map[string]any{"keys": []any{word, key}}}, false), nil
	}
	data := map[string]any{
		"s": word, "n": json.Number(number), "f": json.Number(ratio), "b": true, "nil": nil, "l": []any{word, json.Number(number)}, "m": map[string]any{key: word, "n": json.Number(number)},
		"j": `{"` + key + `":"` + word + `"}`, "y": key + ": [" + word, "u": "https://" + word + ":x@" + key + ":port/%zz",
		"certificate": word, "private_key": key, "ca_chain": []any{word},
	}
	return NewSecret(View{LeaseID: word, Data: map[string]any{"data": data, "s": word, "n": json.Number(number), "m": data["m"], "metadata": map[string]any{"version": json.Number("3")}}}, true), nil
}

// FuzzTemplate executes templates that nobody would write: whatever fails, the
// error holds nothing of a secret, and what is admitted can be made.
func FuzzTemplate(f *testing.F) {
	for _, name := range Functions() {
		for _, args := range []string{"", " .", " .s", " .n", " .m", " .l", " .nil", " .s .s", " .n .s", " .s .n", " .m .s", " .s .m", " 1 .s", " .s 1", ` "(" .s`, ` "a" .s .s`, " .s .l .m", " .m .m", " .j", " .y", " .u", " .s .s .s .s"} {
			f.Add(`{{ with (secret "kv/app").Data.data }}{{ ` + name + args + ` }}{{ end }}`)
		}
	}
	for _, seed := range []string{
		`{{ with secret "kv/app" }}{{ index .Data.data .Data.data.s }}{{ end }}`, `{{ index (secret "a").Data.data.l (secret "a").Data.data.n }}`,
		`{{ template "x" (secret "a").Data.data.s }}{{ define "x" }}{{ .y }}{{ end }}`, `{{ define "x" }}{{ executeTemplate "x" }}{{ end }}{{ executeTemplate "x" }}`,
		`{{ define "x" }}{{ fail . }}{{ end }}`, `{{ define "x" }}{{ sprig_fail . }}{{ end }}{{ executeTemplate "x" (secret "a").Data.data.s }}`,
		`{{ range (secret "a").Data.data.s }}{{ end }}`, `{{ (secret "a").Data.data.s.x.y }}`, `{{ call (secret "a").Data.data.s }}`, `{{ (secret (secret "a").Data.data.y).Data }}`,
		`{{ secret "a" (secret "a").Data.data.s }}`, `{{ env (secret "a").Data.data.s }}`, `{{ file (secret "a").Data.data.s }}`, `{{ executeTemplate (secret "a").Data.data.s }}`,
		`{{ slice (secret "a").Data.data.s 3 99 }}`, `{{ lt (secret "a").Data.data.m 1 }}`, `{{ scratch.MapSet (secret "a").Data.data.s "a" 1 }}{{ scratch.Set "k" .}}{{ scratch.MapSet "k" "a" 1 }}`,
		`{{ printf "%d" (secret "a").Data.data.s | parseInt }}`, `{{ (pkiCert "pki/issue/a" "a=b").Cert }}`, `{{ range secrets "kv" }}{{ parseInt . }}{{ end }}`, `{{ if }}`, "{{", "{{ \"\n\" }}",
		`{{ block (secret "a").Data.data.s . }}{{ end }}`, `{{ $x := (secret "a").Data.data.m }}{{ $x.nope }}`, `{{ sprig_dig "a" (secret "a").Data.data.m }}`, `{{ html (secret "a").Data.data.s | parseBool }}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 1<<10 || expensive(text) {
			return
		}
		for _, secret := range planted {
			if strings.Contains(text, secret) {
				return
			}
		}
		for _, lenient := range []bool{false, true} {
			file := config.File{Path: "f", Template: text, AllowMissingKeys: lenient}
			r, err := New(file, Options{Show: config.Show{Env: []string{"LATCHKEY_UNSET"}}})
			checked := Check(file, Options{Show: config.Show{Env: []string{"LATCHKEY_UNSET"}}})
			if (err == nil) != (checked == nil) {
				t.Fatalf("checked: %v, made: %v", checked, err)
			}
			if err != nil {
				continue
			}
			_, err = r.Render(plantedLookup, "")
			if err == nil {
				continue
			}
			if !utf8.ValidString(err.Error()) && utf8.ValidString(text) {
				t.Errorf("error %q is no text", err)
			}
			for _, secret := range planted {
				for _, form := range []string{secret, strings.ToLower(secret), strings.ToUpper(secret), secret[:6]} {
					if strings.Contains(err.Error(), form) && !strings.Contains(text, form) {
						t.Errorf("%s: the error holds %q: %v", text, form, err)
					}
				}
			}
		}
	})
}

// expensive templates make keys, passwords or endless text, which is theirs to
// wait for.
func expensive(text string) bool {
	for _, part := range []string{"gen", "bcrypt", "htpasswd", "derivePassword", "repeat", "until", "seq", "loop", "indent", "printf \"%", "buildCustomCert", "AES", "wrap", "template", "range"} {
		if strings.Contains(text, part) && strings.Count(text, "9")+strings.Count(text, "0")+strings.Count(text, "{{") > 4 {
			return true
		}
	}
	return false
}

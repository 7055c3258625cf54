package mutate

import (
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// What the documentation shows can be copied.
func TestDocumentedExamplesAreAccepted(t *testing.T) {
	blocks := strings.Split(AnnotationsMarkdown(), "```yaml\n")[1:]
	if len(blocks) < 4 {
		t.Fatalf("%d examples, there were 4", len(blocks))
	}
	for _, block := range blocks {
		text, _, _ := strings.Cut(block, "```")
		var example struct {
			Metadata struct{ Annotations map[string]string }
		}
		var notes map[string]string
		if err := yaml.Unmarshal([]byte(text), &example); err != nil {
			t.Fatal(err)
		}
		if notes = example.Metadata.Annotations; notes == nil {
			if err := yaml.Unmarshal([]byte(text), &notes); err != nil {
				t.Fatal(err)
			}
		}
		for name, value := range map[string]string{"inject": "true", "role": "app", "files": "[{path: a, secret: kv/a, format: json}]"} {
			if _, ok := notes[Prefix+name]; !ok {
				notes[Prefix+name] = value
			}
		}
		if _, problems := Parse(notes, Identity{Namespace: "shop", ServiceAccount: "web"}, DefaultConfig()); len(problems) > 0 {
			t.Errorf("%v in\n%s", problems, text)
		}
	}
}

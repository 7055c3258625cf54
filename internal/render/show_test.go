package render

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/latchkey-dev/latchkey/internal/config"
)

// Templates read the files of the directories that they are shown, and nothing
// else: whatever lies there, the agent neither waits for it nor takes it into
// its memory.
func TestFileIsShown(t *testing.T) {
	dir := t.TempDir()
	shown := filepath.Join(dir, "shown")
	for _, d := range []string{filepath.Join(shown, "..data"), filepath.Join(shown, "folder")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, size := range map[string]int{"outside": 1, "shown/most": largestShown, "shown/more": largestShown + 1, "shown/..data/map": 2} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.Repeat("x", size)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{"map": "..data/map", "escape": "../outside"} {
		if err := os.Symlink(target, filepath.Join(shown, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(shown, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		file, err string
		size      int
	}{
		{"shown/most", "", largestShown},
		{"shown/map", "", 2},
		{"shown/more", "it has 1048577 bytes (at most 1048576)", 0},
		{"shown/pipe", "it is no regular file", 0},
		{"shown/folder", "it is no regular file", 0},
		{"shown/nope", "it is missing, ", 0},
		{"shown/escape", "or is a link that leads out of the directory", 0},
		{"shown/../outside", "is not shown to templates (shown: " + shown + ")", 0},
		{"outside", "is not shown to templates (shown: " + shown + ")", 0},
	} {
		// The path is made by the template, so that nothing is refused before.
		text := `{{ printf "` + dir + `/%s" "` + c.file + `" | file }}`
		r, err := New(config.File{Path: "f", Template: text}, Options{Show: config.Show{Dirs: []string{shown}}})
		if err != nil {
			t.Fatal(err)
		}
		result, err := r.Render(nil, "")
		switch {
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%s: got %v, want %s", c.file, err, c.err)
		case c.err == "" && (err != nil || len(result.Files[0].Content.Reveal()) != c.size):
			t.Errorf("%s: %v", c.file, err)
		}
	}
}

package storage

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hashicorp/vault/sdk/physical"
)

func open(t *testing.T, file string) *Backend {
	t.Helper()
	b, err := Open(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// TestAsVaultExpects runs Vault's own tests of a storage.
func TestAsVaultExpects(t *testing.T) {
	physical.ExerciseBackend(t, open(t, filepath.Join(t.TempDir(), "a")))
	physical.ExerciseBackend_ListPrefix(t, open(t, filepath.Join(t.TempDir(), "b")))
}

func TestListNamesAFolderOnce(t *testing.T) {
	b := open(t, filepath.Join(t.TempDir(), "db"))
	for _, key := range []string{"x/a", "x/a/1", "x/a/2", "x/a-b", "x/a0", "x/c/d/e", "xy"} {
		if err := b.Put(t.Context(), &physical.Entry{Key: key, Value: []byte(key)}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := b.List(t.Context(), "x/")
	if want := []string{"a", "a-b", "a/", "a0", "c/"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("List(x/) = %q, %v; want %q", got, err, want)
	}
}

// TestSurvivesAKill opens a copy of the file that was taken while the first was in use, as a killed process leaves it.
func TestSurvivesAKill(t *testing.T) {
	file := filepath.Join(t.TempDir(), "db")
	b := open(t, file)
	if err := b.Put(t.Context(), &physical.Entry{Key: "key", Value: []byte("value")}); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file+".left", content, 0o600); err != nil {
		t.Fatal(err)
	}
	entry, err := open(t, file+".left").Get(t.Context(), "key")
	if err != nil || entry == nil || string(entry.Value) != "value" {
		t.Errorf("Get(key) = %v, %v; want value", entry, err)
	}
}

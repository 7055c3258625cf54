package e2e

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	vault "github.com/hashicorp/vault/api"
)

// vaultCLI is as much of the command `vault` as our scripts for Vault's operators
// call. The tests' program is it where it is called so: the box has no other.
func vaultCLI(args []string) error {
	client, err := vault.NewClient(vault.DefaultConfig()) // from VAULT_ADDR and the like
	if err != nil {
		return err
	}
	if len(args) < 2 {
		return fmt.Errorf("vault %s is not known here", args)
	}
	switch args[0] + " " + args[1] {
	case "auth list":
		mounts, err := client.Sys().ListAuth()
		for path, m := range mounts {
			fmt.Printf("%-24s %-12s %-24s %s\n", path, m.Type, m.Accessor, m.Description)
		}
		return err
	case "auth enable":
		flags := flag.NewFlagSet("vault auth enable", flag.ContinueOnError)
		path, description := flags.String("path", "", ""), flags.String("description", "", "")
		if err := flags.Parse(args[2:]); err != nil {
			return err
		}
		return client.Sys().EnableAuthWithOptions(*path, &vault.EnableAuthOptions{Type: flags.Arg(0), Description: *description})
	case "policy write":
		rules, err := fileOrInput(args[3])
		if err != nil {
			return err
		}
		return client.Sys().PutPolicy(args[2], rules)
	}
	if args[0] != "write" {
		return fmt.Errorf("vault %s is not known here", args)
	}
	data := map[string]any{}
	for _, pair := range args[2:] {
		if pair == "-" {
			if err := json.NewDecoder(os.Stdin).Decode(&data); err != nil {
				return err
			}
			continue
		}
		key, value, _ := strings.Cut(pair, "=")
		data[key] = value
	}
	_, err = client.Logical().Write(args[1], data)
	return err
}

func fileOrInput(name string) (string, error) {
	if name == "-" {
		data, err := io.ReadAll(os.Stdin)
		return string(data), err
	}
	data, err := os.ReadFile(name)
	return string(data), err
}

// vaultOnPath is a folder in which a command `vault` lies.
func vaultOnPath(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(self, filepath.Join(dir, "vault")); err != nil {
		t.Fatal(err)
	}
	return dir
}

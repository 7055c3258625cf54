// Package e2e runs Latchkey as its users do, on a real Kubernetes with a real
// Vault: `make e2e`. Every test has a namespace, a role and secrets of its own.
package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/test/harness"
)

// suite is the cluster that all tests share.
var suite *harness.Cluster

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "vault" {
		if err := vaultCLI(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "vault:", err)
			os.Exit(1)
		}
		return
	}
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	var err error
	var witness *harness.Witness
	if suite, err = harness.Open(); err == nil {
		witness, err = suite.Witness()
	}
	if err == nil {
		err = suite.Install(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "preparing the suite:", err)
		return 1
	}
	code := m.Run()
	if err := heard(witness); err != nil {
		fmt.Fprintf(os.Stderr, "--- FAIL: Latchkey has shown secrets (see also `go doc ./test/leaks`):\n%v\n", err)
		code = 1
	}
	return code
}

// heard says what all agents, injectors and Events of the run were looked
// through for, and returns where a secret was found.
func heard(w *harness.Witness) error {
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	defer cancel()
	summary, err := w.End(ctx)
	fmt.Fprintln(os.Stderr, summary)
	return err
}

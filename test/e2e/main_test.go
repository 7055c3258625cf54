// Package e2e runs Latchkey as its users do, on a real Kubernetes with a real
// Vault: `make e2e`. Every test has a namespace, a role and secrets of its own.
package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/latchkey-dev/latchkey/test/harness"
)

// suite is the cluster that all tests share.
var suite *harness.Cluster

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	var err error
	if suite, err = harness.Open(); err == nil {
		err = suite.Install(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "preparing the suite:", err)
		return 1
	}
	return m.Run()
}

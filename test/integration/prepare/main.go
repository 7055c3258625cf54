// Command prepare makes or fetches what the integration tests run, and says so:
// a test that has begun must not wait for a compiler or need the network.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/latchkey-dev/latchkey/test/integration/vaulttest"
)

func main() {
	if err := vaulttest.Prepare(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "preparing the integration tests:", err)
		os.Exit(1)
	}
}

// Command roots prints Mozilla's root certificates as a PEM bundle: what an
// image needs where the certificate of a Vault was issued by a public authority.
// The module that holds them is updated as any other.
package main

import (
	"bufio"
	"encoding/pem"
	"fmt"
	"os"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

func main() {
	out := bufio.NewWriter(os.Stdout)
	for root := range bundle.Roots() {
		// A root that is trusted under a condition only, such as for certificates
		// of before a date, cannot say so in a bundle.
		if root.Constraint != nil {
			continue
		}
		if err := pem.Encode(out, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}); err != nil {
			fail(err)
		}
	}
	if err := out.Flush(); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "roots: writing the bundle:", err)
	os.Exit(1)
}

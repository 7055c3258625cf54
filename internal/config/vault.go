package config

import (
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// MinTimeout is the shortest Vault.Timeout.
const MinTimeout = time.Second

// Validate reports every problem at once, each as `vault.field: problem (what is
// allowed)`.
func (v *Vault) Validate() []error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("vault."+field+": "+format, args...))
	}
	if err := CheckAddress(v.Address); err != nil {
		bad("address", "%w", err)
	}
	if v.CA != "" && v.CAFile != "" {
		bad("ca", "caFile is set too (one of them)")
	}
	if v.CA != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(v.CA)) {
		bad("ca", "holds no certificate (a PEM bundle)")
	}
	if (v.ClientCert == "") != (v.ClientKey == "") {
		bad("clientCert", "clientCert and clientKey belong together (both or neither)")
	}
	if err := CheckProxy(v.Proxy); err != nil {
		bad("proxy", "%w", err)
	}
	if v.Timeout != 0 && time.Duration(v.Timeout) < MinTimeout {
		bad("timeout", "%s (at least %s)", v.Timeout, MinTimeout)
	}
	for _, err := range CheckHeaders(v.Headers) {
		bad("headers", "%w", err)
	}
	return append(errs, v.validateAuth()...)
}

// CheckAddress says what is wrong with the address of a Vault server.
func CheckAddress(address string) error {
	const example = "https://vault.vault.svc:8200"
	if err := checkOrigin(address, example); err != nil {
		return err
	}
	u, err := url.Parse(address)
	if err != nil {
		return err // which checkOrigin has said better
	}
	port, err := strconv.Atoi(u.Port())
	switch {
	case u.Hostname() == "", strings.ContainsFunc(u.Hostname(), func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return fmt.Errorf("%q has no host (such as %q)", address, example)
	case strings.HasSuffix(u.Host, ":"), u.Port() != "" && (err != nil || port < 1 || port > 65535):
		return fmt.Errorf("%q has no port behind its colon (1 to 65535)", address)
	case strings.ContainsAny(address, "?#"):
		return fmt.Errorf("%q has more than scheme, host and port (the path comes from each secret)", address)
	}
	return nil
}

// CheckProxy says what is wrong with the URL of a proxy. There may be none. One
// that is spoken to with TLS would be trusted by Vault's CA, and be shown the
// client certificate that is meant for Vault.
func CheckProxy(proxy string) error {
	if proxy == "" {
		return nil
	}
	const example = "http://proxy.example:3128"
	if err := checkOrigin(proxy, example); err != nil {
		return err
	}
	if strings.HasPrefix(strings.ToLower(proxy), "https:") {
		return fmt.Errorf("%q is not spoken to in plain HTTP (such as %q; what goes through it to an https address is encrypted all the same)", proxy, example)
	}
	return nil
}

// checkOrigin says what is wrong with a URL that names a server and nothing on it.
func checkOrigin(address, example string) error {
	u, err := url.Parse(address)
	switch {
	case err != nil && strings.Contains(address, "@"), u != nil && u.User != nil:
		// Not quoted: what it holds may be a password.
		return errors.New("holds credentials (a URL without user and password)")
	case err != nil:
		return fmt.Errorf("%q is not a URL (such as %q)", address, example)
	case u.Scheme != "https" && u.Scheme != "http", u.Host == "":
		return fmt.Errorf("%q has no scheme and host (such as %q)", address, example)
	case u.Path != "" && u.Path != "/", u.RawQuery != "", u.Fragment != "":
		return fmt.Errorf("%q has more than scheme, host and port (the path comes from each secret)", address)
	}
	return nil
}

// CheckHeaders says what is wrong with headers that are sent to Vault. Those
// that carry credentials, and those that the agent sets itself, are refused:
// everybody who may read pods would see them.
func CheckHeaders(headers map[string]string) []error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		canonical := http.CanonicalHeaderKey(name)
		switch {
		case name == "" || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune("()<>@,;:\\\"/[]?={}", r) }):
			errs = append(errs, fmt.Errorf("%q is no name of a header (letters, digits and \"-\")", name))
		case slices.Contains([]string{"Authorization", "Proxy-Authorization", "Cookie"}, canonical):
			errs = append(errs, fmt.Errorf("%q would hold credentials, which anybody who may read pods could read (another header)", name))
		case strings.HasPrefix(canonical, "X-Vault-"), slices.Contains([]string{"Host", "Content-Length", "Content-Type", "Connection", "Transfer-Encoding"}, canonical):
			errs = append(errs, fmt.Errorf("%q is set by the agent itself (another header)", name))
		case strings.ContainsFunc(headers[name], func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }):
			errs = append(errs, fmt.Errorf("%q has a value with control characters (one line of text)", name))
		}
	}
	return errs
}

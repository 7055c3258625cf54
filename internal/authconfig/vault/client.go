package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/latchkey-dev/latchkey/internal/config"
	"github.com/latchkey-dev/latchkey/internal/render/sealed"
	"github.com/latchkey-dev/latchkey/internal/vaultconn"
)

const (
	callTimeout   = 20 * time.Second // of one call, where the configuration has none
	revokeTimeout = 2 * time.Second  // of the last call
	maxAnswer     = 16 << 20         // bytes
)

// Client calls Vault about one auth mount, with a token of its own that it gets
// when it is needed. It is safe for concurrent use.
type Client struct {
	// LoggedIn, if it is set before the first call, is told of each login.
	LoggedIn func(error)

	vault     config.Vault
	mount     string // below auth/, without slashes around it
	typ       string // of the mount
	log       *slog.Logger
	transport http.RoundTripper

	mu sync.Mutex // held while logging in
	login
}

// New makes a client for the mount at a path, with or without "auth/", that is or
// will be of a type: "kubernetes" or "jwt". It calls nobody.
func New(v config.Vault, mount, typ string, log *slog.Logger) (*Client, error) {
	transport, err := vaultconn.Dial(v, log)
	if err != nil {
		return nil, err
	}
	return newClient(v, mount, typ, log, transport)
}

func newClient(v config.Vault, mount, typ string, log *slog.Logger, transport http.RoundTripper) (*Client, error) {
	c := &Client{vault: v, mount: MountPath(mount), typ: typ, log: log, transport: honest{transport}}
	if err := CheckMount(c.mount); err != nil {
		return nil, err
	}
	if err := checkLogin(v, c.mount); err != nil {
		return nil, err
	}
	return c, nil
}

// MountPath is a path of an auth mount without "auth/" and the slashes around it.
func MountPath(mount string) string { return (&config.Auth{Mount: mount}).MountPath() }

func (c *Client) timeout() time.Duration {
	if c.vault.Timeout > 0 {
		return time.Duration(c.vault.Timeout)
	}
	return callTimeout
}

// anonymous makes a client without a token for a namespace of Vault.
func (c *Client) anonymous(namespace string) (*api.Client, error) {
	return vaultconn.Client(c.vault, c.transport, namespace, c.timeout())
}

// with makes a client for what is about the token itself.
func (c *Client) with(s *session) (*api.Client, error) {
	client, err := c.anonymous(s.namespace)
	if err == nil {
		client.SetToken(s.value.Reveal())
	}
	return client, err
}

// read reads a path. Where nothing is, the answer is nil.
func (c *Client) read(ctx context.Context, path string) (data map[string]any, err error) {
	err = c.do(ctx, "reading", path, "read", func(client *api.Client) error {
		answer, err := client.Logical().ReadWithContext(ctx, path)
		switch {
		case err != nil:
			return err
		case answer == nil:
			data = nil
			return nil
		case answer.Data == nil:
			return errNoData
		}
		data = answer.Data
		return nil
	})
	return data, err
}

// list lists what lies below a path.
func (c *Client) list(ctx context.Context, path string) (keys []string, err error) {
	err = c.do(ctx, "listing", path, "list", func(client *api.Client) error {
		keys = nil
		answer, err := client.Logical().ListWithContext(ctx, path)
		if err != nil || answer == nil {
			return err
		}
		all, ok := answer.Data["keys"].([]any)
		if !ok {
			return errNoData
		}
		for _, k := range all {
			key, ok := k.(string)
			if !ok {
				return errNoData
			}
			keys = append(keys, key)
		}
		return nil
	})
	return keys, err
}

// write writes to a path. The answer is nil where Vault gives none.
func (c *Client) write(ctx context.Context, path string, body map[string]any) (data map[string]any, warnings []string, err error) {
	reviewer, _ := body["token_reviewer_jwt"].(string)
	err = c.do(ctx, "writing", path, "update", func(client *api.Client) error {
		data, warnings = nil, nil
		answer, err := client.Logical().WriteWithContext(ctx, path, body)
		if err == nil && answer != nil {
			data, warnings = answer.Data, answer.Warnings
		}
		return err
	}, sealed.Of(reviewer))
	return data, warnings, err
}

// remove deletes a path. That nothing is there is no error.
func (c *Client) remove(ctx context.Context, path string) error {
	return c.do(ctx, "deleting", path, "delete", func(client *api.Client) error {
		_, err := client.Logical().DeleteWithContext(ctx, path)
		return err
	})
}

// health asks Vault, without a token, how it is, and returns its cluster's id.
// A Vault that cannot serve is an error.
func (c *Client) health(ctx context.Context) (cluster string, err error) {
	client, err := c.anonymous("") // namespaces have none
	if err != nil {
		return "", err
	}
	doing := "asking " + c.vault.Address + " for its health"
	h, err := client.Sys().HealthWithContext(ctx)
	switch {
	case err != nil:
		return "", c.failure(doing, "sys/health", err)
	case h.Version == "":
		return "", &Error{Doing: doing, Said: "what answers is no Vault", Remedy: "correct vault.address"}
	case !h.Initialized:
		return "", &Error{Doing: doing, Said: "Vault is not initialised", Remedy: "vault operator init"}
	case h.Sealed:
		return "", &Error{Doing: doing, Status: http.StatusServiceUnavailable, Said: "Vault is sealed", Remedy: "unseal it"}
	case h.ReplicationDRMode == "secondary":
		return "", &Error{Doing: doing, Said: "it is of a disaster recovery secondary, which serves nobody", Remedy: "use the address of the primary cluster"}
	case h.ClusterID == "":
		return "", &Error{Doing: doing, Said: "the answer has no cluster_id", Remedy: between}
	}
	return h.ClusterID, nil
}

// do makes a call with a token, and once more with a new one where Vault says
// that the token is not good any more, or may get one that is allowed more. The
// secrets are what the call carries beside the token.
func (c *Client) do(ctx context.Context, doing, path, capability string, call func(*api.Client) error, secrets ...sealed.Value[string]) error {
	t, err := c.token(ctx)
	if err != nil {
		return noToken{err}
	}
	for again := false; ; again = true {
		client, err := c.anonymous(c.vault.Namespace)
		if err != nil {
			return err
		}
		client.SetToken(t.value.Reveal())
		err = unhurried(ctx, func() error { return call(client) })
		if err == nil {
			return nil
		}
		e := c.failure(doing+" "+path, path, err, append(secrets, t.value)...)
		if e.denied() {
			e.Remedy = c.lacks(path, capability)
		}
		if again || e.Status != http.StatusForbidden {
			return e
		}
		fresh, err := c.replace(ctx, t, e)
		if err != nil {
			return noToken{err}
		}
		if fresh == nil {
			return e
		}
		t = fresh
	}
}

// quotaWaits are about how long to wait before each further try of a call that a
// rate limit refused. Vault counts by the second if its operator says nothing
// else, and to look at a mount takes a call for each of its roles.
var quotaWaits = []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second}

// unhurried tries a call again that a rate limit refused, which had no effect.
func unhurried(ctx context.Context, call func() error) error {
	err := call()
	for _, wait := range quotaWaits {
		var answer *api.ResponseError
		if !errors.As(err, &answer) || answer.StatusCode != http.StatusTooManyRequests {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait/2 + rand.N(wait)):
		}
		err = call()
	}
	return err
}

// honest turns a 404 that does not say that something is absent into an error:
// the library takes them all for that.
type honest struct{ next http.RoundTripper }

func (h honest) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := h.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	response.Body.Close()
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	if len(body) > maxAnswer {
		return nil, fmt.Errorf("the answer is longer than %d MiB", maxAnswer>>20)
	}
	response.Body = io.NopCloser(bytes.NewReader(body))
	if response.StatusCode != http.StatusNotFound {
		return response, nil
	}
	var answer struct {
		Errors []string       `json:"errors"`
		Data   map[string]any `json:"data"`
	}
	switch {
	case json.Unmarshal(body, &answer) != nil, answer.Errors == nil && answer.Data == nil:
		return nil, notVault{response.StatusCode}
	case len(answer.Errors) > 0:
		return nil, noRoute{answer.Errors}
	}
	return response, nil
}

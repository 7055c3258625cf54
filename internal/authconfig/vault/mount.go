package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/latchkey-dev/latchkey/internal/authconfig/desired"
	"github.com/latchkey-dev/latchkey/internal/authconfig/plan"
	"github.com/latchkey-dev/latchkey/internal/render/sealed"
)

// readers is how many roles are read at a time.
const readers = 8

// Observe implements API. It reads each path once.
func (c *Client) Observe(ctx context.Context) (plan.Observed, error) {
	cluster, err := c.health(ctx)
	if err != nil {
		return plan.Observed{}, err
	}
	o := plan.Observed{Cluster: cluster}
	if o.Mount, o.InTheWay, err = c.find(ctx); err != nil || o.Mount == nil {
		return o, err
	}
	if _, ours := answered[o.Mount.Type]; !ours {
		return o, nil
	}
	config, err := c.answer(ctx, c.path("config"), answered[o.Mount.Type].config)
	if err != nil {
		return o, err
	}
	o.Config, o.Mark = desired.CanonicalConfig(o.Mount.Type, config), plan.Mark(config)
	if set, ok := config["token_reviewer_jwt_set"].(bool); ok { // an older Vault does not say
		o.ReviewerToken = &set
	}
	if o.Roles, err = c.roles(ctx, o.Mount.Type); err == nil {
		return o, nil
	}
	o.Roles, o.RolesUnknown = nil, true
	var from interface{ Unavailable() bool }
	if ctx.Err() != nil || errors.As(err, &from) && from.Unavailable() {
		return o, err
	}
	return o, RolesError{err}
}

// RolesError is why the roles of a mount are not known where all else is: Vault
// denies them, or answers nonsense for one.
type RolesError struct{ Err error }

func (e RolesError) Error() string { return e.Err.Error() }

// Unwrap returns what failed.
func (e RolesError) Unwrap() error { return e.Err }

// answered has, for each type of mount that is any business of authconfig's, a
// field that Vault's answer has in any case.
var answered = map[string]struct{ config, role string }{
	desired.Kubernetes: {"kubernetes_host", "bound_service_account_names"},
	desired.JWT:        {"bound_issuer", "role_type"},
}

// answer reads a path; nil is nothing there. An answer without the field is an
// error: the library takes any JSON for data, also that of something between
// here and Vault.
func (c *Client) answer(ctx context.Context, path, field string) (map[string]any, error) {
	data, err := c.read(ctx, path)
	if _, ok := data[field]; err == nil && data != nil && !ok {
		return nil, lacking(path)
	}
	return data, err
}

func lacking(path string) error { return fmt.Errorf("reading %s: %w", path, errNoData) }

func (c *Client) path(below string) string { return "auth/" + c.mount + "/" + below }

func (c *Client) rolePath(name string) string { return c.path("role/" + name) }

// find is the mount as it is listed; nil where there is none, and then perhaps
// another that is in its way.
func (c *Client) find(ctx context.Context) (found *plan.Mount, inTheWay string, err error) {
	const path = "sys/auth"
	all, err := c.read(ctx, path)
	if err != nil {
		return nil, "", err
	}
	if _, ok := all["token/"]; !ok { // which every Vault has, and each of its namespaces
		return nil, "", lacking(path)
	}
	own := c.mount + "/"
	listed, ok := all[own]
	if !ok {
		for _, other := range slices.Sorted(maps.Keys(all)) {
			if strings.HasPrefix(own, other) || strings.HasPrefix(other, own) {
				return nil, strings.TrimSuffix(other, "/"), nil
			}
		}
		return nil, "", nil
	}
	var m struct {
		Type        string `json:"type"`
		Accessor    string `json:"accessor"`
		Description string `json:"description"`
		Config      struct {
			DefaultLeaseTTL int64 `json:"default_lease_ttl"` // seconds
			MaxLeaseTTL     int64 `json:"max_lease_ttl"`
		} `json:"config"`
	}
	text, err := json.Marshal(listed)
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err == nil && (m.Type == "" || m.Accessor == "") {
		err = errNoData
	}
	if err != nil {
		return nil, "", fmt.Errorf("reading mount %s in %s: %w", c.mount, path, err)
	}
	return &plan.Mount{Type: m.Type, Accessor: m.Accessor, Tune: plan.Tune{
		Description:     m.Description,
		DefaultLeaseTTL: time.Duration(m.Config.DefaultLeaseTTL) * time.Second,
		MaxLeaseTTL:     time.Duration(m.Config.MaxLeaseTTL) * time.Second,
	}}, "", nil
}

func (c *Client) roles(ctx context.Context, typ string) (map[string]desired.Fields, error) {
	names, err := c.list(ctx, c.path("role"))
	if err != nil {
		return nil, err
	}
	all := make(map[string]desired.Fields, len(names))
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	for _, name := range names {
		g.Go(func() error {
			role, err := c.answer(ctx, c.rolePath(name), answered[typ].role)
			if err != nil || role == nil { // it may have gone since it was listed
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			all[name] = desired.Canonical(typ, role)
			return nil
		})
	}
	return all, g.Wait()
}

// Enable makes the mount and returns its accessor.
func (c *Client) Enable(ctx context.Context, typ string, tune plan.Tune) (accessor string, err error) {
	_, _, err = c.write(ctx, "sys/auth/"+c.mount, map[string]any{
		"type": typ, "description": tune.Description,
		"config": map[string]any{"default_lease_ttl": lease(tune.DefaultLeaseTTL), "max_lease_ttl": lease(tune.MaxLeaseTTL)},
	})
	if err != nil {
		return "", err
	}
	m, _, err := c.find(ctx)
	switch {
	case err != nil:
		return "", err
	case m == nil:
		return "", fmt.Errorf("looking for auth/%s, which was just made: it is not there", c.mount)
	}
	return m.Accessor, nil
}

// Tune sets the mount's own settings. The mount stays the same, with its roles.
func (c *Client) Tune(ctx context.Context, tune plan.Tune) error {
	_, _, err := c.write(ctx, "sys/mounts/auth/"+c.mount+"/tune", map[string]any{
		"description": tune.Description, "default_lease_ttl": lease(tune.DefaultLeaseTTL), "max_lease_ttl": lease(tune.MaxLeaseTTL),
	})
	return err
}

// lease is a TTL as mounts take it. That of the system is a word: 0 and no value
// keep what is there.
func lease(ttl time.Duration) string {
	if ttl == 0 {
		return "system"
	}
	return strconv.FormatInt(int64(ttl/time.Second), 10) + "s"
}

// WriteConfig writes the config whole, with the reviewer token if there is one.
func (c *Client) WriteConfig(ctx context.Context, config desired.Fields, reviewerToken sealed.Value[string]) error {
	path, sent := c.path("config"), desired.Sent(config, nil)
	body := body(sent)
	if token := reviewerToken.Reveal(); token != "" {
		body["token_reviewer_jwt"] = token
	}
	unknown, err := c.put(ctx, path, sent, body, func(raw map[string]any) desired.Fields { return desired.CanonicalConfig(c.typ, raw) })
	if err == nil && len(unknown) > 0 {
		err = ignored(path, unknown)
	}
	return err
}

// WriteRole writes a role. That Vault does not know one of its fields is an
// error, and undone: before is written back, or the role deleted where it is nil.
func (c *Client) WriteRole(ctx context.Context, name string, before, after desired.Fields) error {
	path, sent := c.rolePath(name), desired.Sent(after, before)
	canonical := func(raw map[string]any) desired.Fields { return desired.Canonical(c.typ, raw) }
	unknown, err := c.put(ctx, path, sent, body(sent), canonical)
	if err != nil || len(unknown) == 0 {
		return err
	}
	err = ignored(path, unknown)
	if before == nil {
		if undo := c.remove(ctx, path); undo != nil {
			return fmt.Errorf("%w; undoing that: %w", err, undo)
		}
		return fmt.Errorf("%w; the role was deleted again", err)
	}
	known := maps.Clone(after)
	for _, name := range unknown {
		delete(known, name)
	}
	if _, _, undo := c.write(ctx, path, body(desired.Sent(before, known))); undo != nil {
		return fmt.Errorf("%w; undoing that: %w", err, undo)
	}
	return fmt.Errorf("%w; the role is again what it was", err)
}

// DeleteRole deletes a role. That there is none is no error.
func (c *Client) DeleteRole(ctx context.Context, name string) error {
	return c.remove(ctx, c.rolePath(name))
}

// put writes fields and returns those that Vault does not know. It says so
// itself only where it has something to answer, which it has not for most
// (sdk/framework, HandleRequest): fields that not every Vault knows are read back.
func (c *Client) put(ctx context.Context, path string, sent desired.Fields, body map[string]any, canonical func(map[string]any) desired.Fields) (unknown []string, err error) {
	_, warnings, err := c.write(ctx, path, body)
	if err != nil {
		return nil, err
	}
	for _, warning := range warnings {
		names, found := strings.CutPrefix(warning, "Endpoint ignored these unrecognized parameters: ")
		if !found {
			c.log.Warn("Vault warns", "path", path, "warning", warning)
			continue
		}
		unknown = append(unknown, strings.Fields(strings.Trim(names, "[]"))...)
	}
	always := desired.Sent(canonical(map[string]any{}), nil)
	var rare []string
	for name := range sent {
		if _, ok := always[name]; !ok && !slices.Contains(unknown, name) {
			rare = append(rare, name)
		}
	}
	if len(rare) == 0 {
		return unknown, nil
	}
	slices.Sort(rare)
	raw, err := c.read(ctx, path)
	if err != nil {
		return nil, err
	}
	has := canonical(raw)
	for _, name := range rare {
		if !plan.Equal(desired.Fields{name: has[name]}, desired.Fields{name: sent[name]}) {
			unknown = append(unknown, name)
		}
	}
	return unknown, nil
}

func ignored(path string, unknown []string) error {
	return fmt.Errorf("writing %s: Vault does not know %s: leave that out, or use a newer Vault", path, strings.Join(unknown, ", "))
}

// body is what is sent of fields. An empty list is one, and not null, which
// would leave what is there.
func body(fields desired.Fields) map[string]any {
	b := make(map[string]any, len(fields))
	for name, value := range fields {
		switch v := value.(type) {
		case []string:
			b[name] = append([]string{}, v...)
		case map[string]string:
			b[name] = orEmpty(v)
		case map[string][]string:
			b[name] = orEmpty(v)
		default:
			b[name] = value
		}
	}
	return b
}

func orEmpty[M ~map[string]V, V any](m M) M {
	if m == nil {
		return M{}
	}
	return m
}

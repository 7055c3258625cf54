package server

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/latchkey-dev/latchkey/internal/mutate"
)

// configFile is the operator's configuration, read again while it is used. A
// file that has become wrong changes nothing: the last good one stays.
type configFile struct {
	path    string
	log     *slog.Logger
	metrics *metrics
	current atomic.Pointer[mutate.Config]
	// problem is why the file is not what is used, empty when it is.
	problem atomic.Pointer[string]

	mu   sync.Mutex // of reload
	data []byte     // as last taken over
}

// openConfig reads the file for the first time, when an error is final.
func openConfig(path string, log *slog.Logger, m *metrics) (*configFile, error) {
	c := &configFile{path: path, log: log, metrics: m}
	none := ""
	c.problem.Store(&none)
	m.configUsed()
	m.configReloaded(nil)
	if path == "" {
		c.current.Store(mutate.DefaultConfig())
		return c, nil
	}
	data, cfg, err := readConfig(path)
	if err != nil {
		return nil, err
	}
	c.data = data
	c.current.Store(cfg)
	return c, nil
}

func readConfig(path string) ([]byte, *mutate.Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("reading operator's configuration: %w", err)
	}
	cfg, err := mutate.ParseConfig(data)
	if err != nil {
		return data, nil, fmt.Errorf("reading operator's configuration %s: %w", path, err)
	}
	return data, cfg, nil
}

// watch reads the file again and again: a mounted ConfigMap changes by links
// several levels up, which a look at the content sees most simply.
func (c *configFile) watch(ctx context.Context, every time.Duration) {
	if c.path == "" {
		return
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			c.reload()
		}
	}
}

// reload takes over the file if it has changed and is good.
func (c *configFile) reload() {
	c.mu.Lock()
	defer c.mu.Unlock()
	data, cfg, err := readConfig(c.path)
	if data != nil && bytes.Equal(data, c.data) && *c.problem.Load() == "" {
		return
	}
	problem := ""
	if err != nil {
		problem = err.Error()
	}
	if old := c.problem.Swap(&problem); err != nil {
		if problem != *old { // once, and not every ten seconds
			c.metrics.configReloaded(err)
			c.log.Error("keeping last good configuration", "error", err)
		}
		return
	}
	changed := !bytes.Equal(data, c.data)
	c.data = data
	c.metrics.configReloaded(nil)
	if !changed {
		c.log.Info("configuration is readable again")
		return
	}
	c.current.Store(cfg)
	c.metrics.configUsed()
	c.log.Info("configuration changed", "connections", len(cfg.Connections))
}

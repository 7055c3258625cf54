package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/vault"
)

// unsealRetry is short because a killed Vault is expected back at once, and an attempt costs one small file.
const unsealRetry = 250 * time.Millisecond

// unsealOnce unseals core with the key in file as soon as both are ready, and ends when core has been unsealed, by this
// or by a call: a seal that follows is somebody's wish.
func unsealOnce(ctx context.Context, core *vault.Core, file string, logger hclog.Logger) {
	ticker := time.NewTicker(unsealRetry)
	defer ticker.Stop()
	for lastReason := ""; core.Sealed(); {
		err := tryUnseal(ctx, core, file)
		if err == nil {
			break
		}
		if err.Error() != lastReason {
			lastReason = err.Error()
			logger.Info("still sealed", "reason", lastReason)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
	logger.Info("unsealed")
}

func tryUnseal(ctx context.Context, core *vault.Core, file string) error {
	initialized, err := core.Initialized(ctx)
	if err != nil {
		return fmt.Errorf("asking whether the storage is initialised: %w", err)
	}
	if !initialized {
		return errors.New("not initialised yet")
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(bytes.TrimSpace(text)) == 0 {
		return fmt.Errorf("no key in %s yet", file)
	}
	if err != nil {
		return fmt.Errorf("reading the unseal key: %w", err)
	}
	key, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(text)))
	if err != nil {
		return fmt.Errorf("decoding the unseal key in %s: %w", file, err)
	}
	unsealed, err := core.Unseal(key)
	if err != nil {
		return fmt.Errorf("unsealing with the key in %s: %w", file, err)
	}
	if !unsealed {
		return fmt.Errorf("the key in %s is one of several shares", file)
	}
	return nil
}

// Package storage keeps what Vault stores in one file.
package storage

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/physical"
	"go.etcd.io/bbolt"
)

var bucket = []byte("vault")

// Backend keeps Vault's (already encrypted) entries in one bbolt file: each write is one transaction, so that a kill at
// any moment leaves the entry old or new, which Vault's own file storage does not promise for its listings.
type Backend struct{ db *bbolt.DB }

var _ physical.Backend = (*Backend)(nil)

// Open opens or makes the file. It waits up to 10 s for a predecessor that is still being killed.
func Open(file string) (*Backend, error) {
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{
		Timeout: 10 * time.Second,
		// Pages that were written outlive the process; only a power cut would need them on the disk.
		NoSync: true,
	})
	if err != nil {
		return nil, fmt.Errorf("opening the storage %s: %w", file, err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucket)
		return err
	})
	if err != nil {
		db.Close()
		return nil, fmt.Errorf("preparing the storage %s: %w", file, err)
	}
	return &Backend{db}, nil
}

// Close writes everything to the disk and releases the file.
func (b *Backend) Close() error {
	if err := b.db.Sync(); err != nil {
		return fmt.Errorf("writing the storage to the disk: %w", err)
	}
	return b.db.Close()
}

// Put stores an entry under its key.
func (b *Backend) Put(_ context.Context, entry *physical.Entry) error {
	return b.db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucket).Put([]byte(entry.Key), entry.Value)
	})
}

// Get returns the entry under key, or nil without one.
func (b *Backend) Get(_ context.Context, key string) (*physical.Entry, error) {
	var entry *physical.Entry
	err := b.db.View(func(tx *bbolt.Tx) error {
		if value := tx.Bucket(bucket).Get([]byte(key)); value != nil {
			entry = &physical.Entry{Key: key, Value: bytes.Clone(value)}
		}
		return nil
	})
	return entry, err
}

// Delete removes the entry under key, if there is one.
func (b *Backend) Delete(_ context.Context, key string) error {
	return b.db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucket).Delete([]byte(key))
	})
}

// List returns the names directly below prefix, folders with a final slash, sorted and once each.
func (b *Backend) List(_ context.Context, prefix string) ([]string, error) {
	var names []string
	err := b.db.View(func(tx *bbolt.Tx) error {
		cursor := tx.Bucket(bucket).Cursor()
		key, _ := cursor.Seek([]byte(prefix))
		for key != nil && bytes.HasPrefix(key, []byte(prefix)) {
			name := string(key[len(prefix):])
			folder, _, below := strings.Cut(name, "/")
			if !below {
				names = append(names, name)
				key, _ = cursor.Next()
				continue
			}
			names = append(names, folder+"/")
			// "0" follows "/": on to the first key that is not in the folder.
			key, _ = cursor.Seek([]byte(prefix + folder + "0"))
		}
		return nil
	})
	return names, err
}

package main

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

// storage keeps Vault's (already encrypted) entries in one bbolt file: each write is one transaction, so that a kill at
// any moment leaves the entry old or new, which Vault's own file storage does not promise for its listings.
type storage struct{ db *bbolt.DB }

var _ physical.Backend = (*storage)(nil)

// openStorage opens or makes the file. It waits a moment for a predecessor that is still being killed.
func openStorage(file string) (*storage, error) {
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
	return &storage{db}, nil
}

// Close writes everything to the disk and releases the file.
func (s *storage) Close() error {
	if err := s.db.Sync(); err != nil {
		return fmt.Errorf("writing the storage to the disk: %w", err)
	}
	return s.db.Close()
}

func (s *storage) Put(_ context.Context, entry *physical.Entry) error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucket).Put([]byte(entry.Key), entry.Value)
	})
}

func (s *storage) Get(_ context.Context, key string) (*physical.Entry, error) {
	var entry *physical.Entry
	err := s.db.View(func(tx *bbolt.Tx) error {
		if value := tx.Bucket(bucket).Get([]byte(key)); value != nil {
			entry = &physical.Entry{Key: key, Value: bytes.Clone(value)}
		}
		return nil
	})
	return entry, err
}

func (s *storage) Delete(_ context.Context, key string) error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucket).Delete([]byte(key))
	})
}

// List returns the names directly below prefix, folders with a final slash, sorted and once each.
func (s *storage) List(_ context.Context, prefix string) ([]string, error) {
	var names []string
	err := s.db.View(func(tx *bbolt.Tx) error {
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

// Package links keeps short names for addresses.
package links

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"

	bolt "go.etcd.io/bbolt"
)

var (
	// ErrUnknown is returned for a name that nobody has taken.
	ErrUnknown = errors.New("unknown link")
	// ErrInvalid is returned for a name or an address that cannot be kept.
	ErrInvalid = errors.New("invalid link")
)

var (
	bucket = []byte("links")
	name   = regexp.MustCompile(`^[a-z0-9-]{1,64}$`)
)

// Store keeps links in one file.
type Store struct{ db *bolt.DB }

// Open opens the file or makes it.
func Open(path string) (*Store, error) {
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucket)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &Store{db}, nil
}

// Close ends the use of the file.
func (s *Store) Close() error { return s.db.Close() }

// Put keeps an address under a name; one that is there is replaced.
func (s *Store) Put(key, address string) error {
	parsed, err := url.Parse(address)
	if err != nil || parsed.Host == "" || !name.MatchString(key) {
		return fmt.Errorf("%w: %q for %q", ErrInvalid, key, address)
	}
	return s.db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket(bucket).Put([]byte(key), []byte(address))
	})
}

// Get returns the address of a name.
func (s *Store) Get(key string) (address string, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		found := tx.Bucket(bucket).Get([]byte(key))
		if found == nil {
			return fmt.Errorf("%w: %q", ErrUnknown, key)
		}
		address = string(found)
		return nil
	})
	return address, err
}

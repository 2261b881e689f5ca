package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/minio/kms-go/kes"
)

// missing is the name of a key that no run creates. The policy my-app covers it.
const missing = "my-app-missing"

// newSecret returns 32 random bytes.
func newSecret() []byte {
	secret := make([]byte, 32)
	rand.Read(secret) // never fails
	return secret
}

func (w *world) keyChecks() {
	w.check("CreateKey, DescribeKey", func(ctx context.Context) error {
		for _, c := range []struct {
			who    string
			client *kes.Client
			id     kes.Identity
		}{
			{"admin", w.admin, w.adminID},
			{"app", w.app, w.appID},
		} {
			name := w.run + "-by-" + c.who
			if err := c.client.CreateKey(ctx, name); err != nil {
				return fmt.Errorf("create as %s: %w", c.who, err)
			}
			info, err := w.admin.DescribeKey(ctx, name)
			if err != nil {
				return fmt.Errorf("describe: %w", err)
			}
			if info.Name != name || info.CreatedBy != c.id {
				return fmt.Errorf("name %q created by %v, expected %q by %v", info.Name, info.CreatedBy, name, c.id)
			}
			if info.Algorithm != kes.AES256 && info.Algorithm != kes.ChaCha20 {
				return fmt.Errorf("algorithm is %v", info.Algorithm)
			}
			if err := recent("creation time", info.CreatedAt); err != nil {
				return err
			}
		}
		return nil
	})

	w.check("CreateKey, ImportKey: ErrKeyExists", func(ctx context.Context) error {
		name := w.run + "-twice"
		if err := w.admin.CreateKey(ctx, name); err != nil {
			return err
		}
		return errors.Join(
			wantError("create as admin", w.admin.CreateKey(ctx, name), kes.ErrKeyExists),
			wantError("create as app", w.app.CreateKey(ctx, name), kes.ErrKeyExists),
			wantError("import", w.admin.ImportKey(ctx, name, &kes.ImportKeyRequest{Key: newSecret()}), kes.ErrKeyExists),
		)
	})

	for _, cipher := range []kes.KeyAlgorithm{kes.AES256, kes.ChaCha20} {
		w.check("ImportKey: "+cipher.String(), func(ctx context.Context) error {
			return w.importTwins(ctx, cipher)
		})
	}

	w.check("ImportKey: a key of wrong size or cipher is 406", func(ctx context.Context) error {
		name := w.run + "-bad-import"
		short := &kes.ImportKeyRequest{Key: newSecret()[:31], Cipher: kes.AES256}
		unknown := &kes.ImportKeyRequest{Key: newSecret(), Cipher: 7}
		_, describeErr := w.admin.DescribeKey(ctx, name)
		return errors.Join(
			wantStatus("31 bytes", w.admin.ImportKey(ctx, name, short), 406),
			wantStatus("unknown cipher", w.admin.ImportKey(ctx, name, unknown), 406),
			wantError("describe", describeErr, kes.ErrKeyNotFound),
		)
	})

	w.check("DeleteKey takes effect at once, and frees the name", func(ctx context.Context) error {
		name := w.run + "-deleted"
		if err := w.admin.CreateKey(ctx, name); err != nil {
			return err
		}
		dek, err := w.app.GenerateKey(ctx, name, nil) // now it is cached
		if err != nil {
			return err
		}
		if err := w.admin.DeleteKey(ctx, name); err != nil {
			return err
		}
		_, generateErr := w.app.GenerateKey(ctx, name, nil)
		_, describeErr := w.admin.DescribeKey(ctx, name)
		if err := errors.Join(
			wantError("generate", generateErr, kes.ErrKeyNotFound),
			wantError("describe", describeErr, kes.ErrKeyNotFound),
			wantError("delete again", w.admin.DeleteKey(ctx, name), kes.ErrKeyNotFound),
		); err != nil {
			return err
		}
		if err := w.admin.CreateKey(ctx, name); err != nil {
			return fmt.Errorf("create again: %w", err)
		}
		_, err = w.admin.Decrypt(ctx, name, dek.Ciphertext, nil)
		return wantError("decrypt with the new key of that name", err, kes.ErrDecrypt)
	})

	w.check("ErrKeyNotFound from every call that needs a key", func(ctx context.Context) error {
		_, describeErr := w.admin.DescribeKey(ctx, missing)
		_, generateErr := w.app.GenerateKey(ctx, missing, nil)
		_, encryptErr := w.app.Encrypt(ctx, missing, []byte("x"), nil)
		_, decryptErr := w.app.Decrypt(ctx, missing, make([]byte, 76), nil)
		_, hmacErr := w.admin.HMAC(ctx, missing, []byte("x"))
		return errors.Join(
			wantError("describe", describeErr, kes.ErrKeyNotFound),
			wantError("delete", w.admin.DeleteKey(ctx, missing), kes.ErrKeyNotFound),
			wantError("generate", generateErr, kes.ErrKeyNotFound),
			wantError("encrypt", encryptErr, kes.ErrKeyNotFound),
			wantError("decrypt", decryptErr, kes.ErrKeyNotFound),
			wantError("hmac", hmacErr, kes.ErrKeyNotFound),
		)
	})

	w.check("invalid key names are 400, with the name in the message", func(ctx context.Context) error {
		for _, name := range []string{"", "a.b", "-a", "a-", "_", "a b", "a*", "a/b", "ä"} {
			want := kes.NewError(400, "key name '"+name+"' is empty, too long or contains invalid characters")
			if err := wantError(fmt.Sprintf("create %q", name), w.admin.CreateKey(ctx, name), want); err != nil {
				return err
			}
		}
		return nil
	})
}

// importTwins imports one secret under two names: what one encrypts the other
// must decrypt, which shows that the server uses the secret it was given.
func (w *world) importTwins(ctx context.Context, cipher kes.KeyAlgorithm) error {
	var (
		secret = newSecret()
		first  = fmt.Sprintf("%s-%v-1", w.run, cipher)
		second = fmt.Sprintf("%s-%v-2", w.run, cipher)
	)
	for _, name := range []string{first, second} {
		if err := w.admin.ImportKey(ctx, name, &kes.ImportKeyRequest{Key: secret, Cipher: cipher}); err != nil {
			return fmt.Errorf("import: %w", err)
		}
		info, err := w.admin.DescribeKey(ctx, name)
		if err != nil {
			return fmt.Errorf("describe: %w", err)
		}
		if info.Name != name || info.Algorithm != cipher || info.CreatedBy != w.adminID {
			return fmt.Errorf("described as %q, %v, by %v", info.Name, info.Algorithm, info.CreatedBy)
		}
		if err := recent("creation time", info.CreatedAt); err != nil {
			return err
		}
	}

	message := []byte("a message")
	ciphertext, err := w.admin.Encrypt(ctx, first, message, nil)
	if err != nil {
		return fmt.Errorf("encrypt: %w", err)
	}
	plaintext, err := w.admin.Decrypt(ctx, second, ciphertext, nil)
	if err != nil {
		return fmt.Errorf("decrypt under the second name: %w", err)
	}
	if !bytes.Equal(plaintext, message) {
		return errors.New("decrypts to something else under the second name")
	}
	return nil
}

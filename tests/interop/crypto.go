package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"

	"github.com/minio/kms-go/kes"
)

// overhead is how much longer a ciphertext is than its plaintext: a tag of 16
// bytes, an IV of 16 and a nonce of 12.
const overhead = 44

func (w *world) cryptoChecks() {
	var (
		aes    = w.run + "-crypt-aes"
		chacha = w.run + "-crypt-chacha"
	)
	w.check("keys for the checks that follow", func(ctx context.Context) error {
		return errors.Join(
			w.admin.ImportKey(ctx, aes, &kes.ImportKeyRequest{Key: newSecret(), Cipher: kes.AES256}),
			w.admin.ImportKey(ctx, chacha, &kes.ImportKeyRequest{Key: newSecret(), Cipher: kes.ChaCha20}),
		)
	})

	for _, key := range []string{aes, chacha} {
		other := chacha
		if key == chacha {
			other = aes
		}
		label := key[len(w.run)+len("-crypt-"):]

		for _, c := range []struct {
			name    string
			context []byte
		}{
			{"without context", nil},
			{"with context", []byte("bucket/object")},
			{"with a binary context", []byte{0x00, 0xff, 0x7b, 0x22}},
		} {
			w.check("GenerateKey, Decrypt "+c.name+": "+label, func(ctx context.Context) error {
				return w.generateAndDecrypt(ctx, key, c.context)
			})
		}
		w.check("Encrypt, Decrypt: "+label, func(ctx context.Context) error {
			return w.encryptAndDecrypt(ctx, key)
		})
		w.check("Decrypt: ErrDecrypt: "+label, func(ctx context.Context) error {
			return w.refuseToDecrypt(ctx, key, other)
		})
		w.check("HMAC: "+label, func(ctx context.Context) error {
			return w.authenticate(ctx, key, other)
		})
	}

	w.check("Encrypt: a body over the limit is 413", func(ctx context.Context) error {
		_, err := w.app.Encrypt(ctx, aes, make([]byte, maxBody), nil)
		return wantStatus("1 MiB, more in base64", err, 413)
	})
}

func (w *world) generateAndDecrypt(ctx context.Context, key string, context []byte) error {
	first, err := w.app.GenerateKey(ctx, key, context)
	if err != nil {
		return fmt.Errorf("generate: %w", err)
	}
	second, err := w.app.GenerateKey(ctx, key, context)
	if err != nil {
		return fmt.Errorf("generate again: %w", err)
	}
	if n := len(first.Plaintext); n != 32 {
		return fmt.Errorf("the data key has %d bytes, expected 32", n)
	}
	if n := len(first.Ciphertext); n != 32+overhead {
		return fmt.Errorf("its ciphertext has %d bytes, expected %d", n, 32+overhead)
	}
	if bytes.Equal(first.Plaintext, second.Plaintext) || bytes.Equal(first.Ciphertext, second.Ciphertext) {
		return errors.New("two data keys are the same")
	}
	for _, dek := range []kes.DEK{first, second} {
		plaintext, err := w.app.Decrypt(ctx, key, dek.Ciphertext, context)
		if err != nil {
			return fmt.Errorf("decrypt: %w", err)
		}
		if !bytes.Equal(plaintext, dek.Plaintext) {
			return errors.New("the ciphertext decrypts to something else")
		}
	}
	return nil
}

func (w *world) encryptAndDecrypt(ctx context.Context, key string) error {
	big := make([]byte, 700_000)
	rand.Read(big) // never fails

	for _, c := range []struct {
		name      string
		plaintext []byte
		context   []byte
	}{
		{"no plaintext", nil, nil},
		{"empty plaintext", []byte{}, nil},
		{"empty plaintext with context", []byte{}, []byte("context")},
		{"one byte", []byte{0}, nil},
		{"text", []byte("some text"), nil},
		{"text with context", []byte("some text"), []byte("context")},
		{"700 kB", big, nil},
		{"700 kB with context", big, []byte("context")},
	} {
		ciphertext, err := w.app.Encrypt(ctx, key, c.plaintext, c.context)
		if err != nil {
			return fmt.Errorf("%s: encrypt: %w", c.name, err)
		}
		if got, want := len(ciphertext), len(c.plaintext)+overhead; got != want {
			return fmt.Errorf("%s: the ciphertext has %d bytes, expected %d", c.name, got, want)
		}
		plaintext, err := w.app.Decrypt(ctx, key, ciphertext, c.context)
		if err != nil {
			return fmt.Errorf("%s: decrypt: %w", c.name, err)
		}
		if !bytes.Equal(plaintext, c.plaintext) {
			return fmt.Errorf("%s: decrypts to something else, of %d bytes", c.name, len(plaintext))
		}
	}
	return nil
}

func (w *world) refuseToDecrypt(ctx context.Context, key, other string) error {
	context := []byte("context")
	plain, err := w.app.Encrypt(ctx, key, []byte("some text"), nil)
	if err != nil {
		return err
	}
	bound, err := w.app.Encrypt(ctx, key, []byte("some text"), context)
	if err != nil {
		return err
	}
	flipped := func(i int) []byte {
		changed := slices.Clone(bound)
		changed[i] ^= 1
		return changed
	}
	last := len(bound) - 1

	for _, c := range []struct {
		name       string
		key        string
		ciphertext []byte
		context    []byte
	}{
		{"another context", key, bound, []byte("other")},
		{"the context left out", key, bound, nil},
		{"a context too many", key, plain, context},
		{"another key", other, bound, context},
		{"first byte changed", key, flipped(0), context},
		{"tag changed", key, flipped(last - 28), context},
		{"IV changed", key, flipped(last - 27), context},
		{"nonce changed", key, flipped(last), context},
		{"cut by a byte", key, bound[:last], context},
		{"longer by a byte", key, append(slices.Clone(bound), 0), context},
		{"one byte", key, []byte{1}, context},
		{"something like JSON", key, []byte(`{"aead":"AES-256-GCM-HMAC-SHA-256"}`), context},
	} {
		_, err := w.app.Decrypt(ctx, c.key, c.ciphertext, c.context)
		if err := wantError(c.name, err, kes.ErrDecrypt); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) authenticate(ctx context.Context, key, other string) error {
	var sums [][]byte
	for _, c := range []struct{ key, message string }{
		{key, "message"},
		{key, "message"},
		{key, "other message"},
		{key, ""},
		{other, "message"},
	} {
		sum, err := w.admin.HMAC(ctx, c.key, []byte(c.message))
		if err != nil {
			return err
		}
		if len(sum) != 32 {
			return fmt.Errorf("the HMAC has %d bytes, expected 32", len(sum))
		}
		sums = append(sums, sum)
	}
	if !bytes.Equal(sums[0], sums[1]) {
		return errors.New("the same message gives two HMACs")
	}
	for _, sum := range sums[2:] {
		if bytes.Equal(sums[0], sum) {
			return errors.New("another message or key gives the same HMAC")
		}
	}
	return nil
}

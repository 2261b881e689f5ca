package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/minio/kms-go/kes"
)

// The load: so many goroutines that each generate and decrypt so many times.
const (
	loadWorkers = 32
	loadRounds  = 50
)

func (w *world) loadChecks() {
	name := w.run + "-load"
	label := fmt.Sprintf("%d goroutines x %d generate and decrypt", loadWorkers, loadRounds)

	w.check("key for the load", func(ctx context.Context) error {
		return w.app.CreateKey(ctx, name)
	})

	w.checkFor("load: the SDK's own transport, "+label, 30*time.Second, func(ctx context.Context) error {
		client, err := w.newClient(w.appKey)
		if err != nil {
			return err
		}
		return load(ctx, client.Client, name)
	})

	w.checkFor("load: connections that are kept, "+label, 30*time.Second, func(ctx context.Context) error {
		client, err := w.newPooledClient(w.appKey, loadWorkers)
		if err != nil {
			return err
		}
		if _, err := client.Version(ctx); err != nil { // opens the first connection
			return err
		}
		if err := load(ctx, client.Client, name); err != nil {
			return err
		}
		most := int64(loadWorkers)
		if w.protocol == "HTTP/2.0" {
			most = 1
		}
		if n := client.opened.Load(); n > most {
			return fmt.Errorf("%d connections, expected at most %d", n, most)
		}
		return nil
	})

	w.checkFor("load: beside a log subscriber that reads nothing, "+label, 30*time.Second, func(ctx context.Context) error {
		client, err := w.newPooledClient(w.appKey, loadWorkers)
		if err != nil {
			return err
		}
		streamCtx, stop := context.WithCancel(ctx)
		defer stop()
		stream, err := w.admin.AuditLog(streamCtx)
		if err != nil {
			return err
		}
		defer stream.Close()
		return load(ctx, client.Client, name)
	})
}

// load fails at the first error or wrong answer.
func load(ctx context.Context, client *kes.Client, name string) error {
	return inParallel(loadWorkers, loadWorkers*loadRounds, func(i int) error {
		context := fmt.Appendf(nil, "request %d", i)
		dek, err := client.GenerateKey(ctx, name, context)
		if err != nil {
			return fmt.Errorf("generate: %w", err)
		}
		plaintext, err := client.Decrypt(ctx, name, dek.Ciphertext, context)
		if err != nil {
			return fmt.Errorf("decrypt: %w", err)
		}
		if !bytes.Equal(plaintext, dek.Plaintext) {
			return errors.New("a data key decrypts to something else: answers are mixed up")
		}
		return nil
	})
}

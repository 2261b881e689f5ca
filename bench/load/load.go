package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"slices"
	"sync"
	"time"

	"github.com/minio/kms-go/kes"
)

// expectedRate is how many requests a second there is room for from the start.
const expectedRate = 40_000

// result is what a run measured. Latencies are in microseconds.
type result struct {
	Requests int     `json:"requests"` // that were answered in the time measured
	Seconds  float64 `json:"seconds"`
	P50      uint32  `json:"p50"`
	P99      uint32  `json:"p99"`
	Total    int64   `json:"total"` // requests of the whole run
}

// run loads the server and measures once the warm-up is over.
func run(opts options) (result, error) {
	client, transport := newClient(opts)
	// Opens the connection that all workers share over HTTP/2.
	if _, err := client.GenerateKey(context.Background(), opts.name, nil); err != nil {
		return result{}, err
	}

	workers := make([]*worker, opts.concurrency)
	for i := range workers {
		call, err := newCall(client, opts.operation, opts.name)
		if err != nil {
			return result{}, err
		}
		room := int(opts.duration.Seconds() * expectedRate / float64(opts.concurrency))
		workers[i] = &worker{call: call, latencies: make([]uint32, 0, room)}
	}
	begin := time.Now().Add(opts.warmUp)
	var wg sync.WaitGroup
	for _, w := range workers {
		wg.Go(func() { w.run(begin, begin.Add(opts.duration)) })
	}
	wg.Wait()

	var all []uint32
	for _, w := range workers {
		all = append(all, w.latencies...)
	}
	if len(all) == 0 {
		return result{}, errors.New("no request was answered in the time measured")
	}
	slices.Sort(all)
	return result{
		Requests: len(all),
		Seconds:  opts.duration.Seconds(),
		P50:      all[len(all)/2],
		P99:      all[len(all)*99/100],
		Total:    transport.requests.Load(),
	}, nil
}

// worker makes one request after the other.
type worker struct {
	call      func() error
	latencies []uint32 // in microseconds, of the requests in the time measured
}

func (w *worker) run(begin, end time.Time) {
	for sent := time.Now(); ; {
		if err := w.call(); err != nil {
			log.Fatal(err)
		}
		now := time.Now()
		if now.After(end) {
			return
		}
		if now.After(begin) {
			w.latencies = append(w.latencies, uint32(now.Sub(sent).Microseconds()))
		}
		sent = now
	}
}

// newCall returns what a worker does over and over.
func newCall(client *kes.Client, operation, name string) (func() error, error) {
	ctx := context.Background()
	binding := []byte("bucket/object")
	generate := func() (kes.DEK, error) {
		dek, err := client.GenerateKey(ctx, name, binding)
		if err != nil {
			return dek, fmt.Errorf("generate: %w", err)
		}
		return dek, nil
	}
	decrypt := func(dek kes.DEK) error {
		plaintext, err := client.Decrypt(ctx, name, dek.Ciphertext, binding)
		if err != nil {
			return fmt.Errorf("decrypt: %w", err)
		}
		if !bytes.Equal(plaintext, dek.Plaintext) {
			return errors.New("a data key decrypts to something else")
		}
		return nil
	}

	switch operation {
	case "generate", "handshake":
		return func() error {
			_, err := generate()
			return err
		}, nil
	case "decrypt":
		dek, err := generate()
		return func() error { return decrypt(dek) }, err
	case "mixed":
		var dek kes.DEK
		return func() (err error) {
			if dek.Ciphertext == nil {
				dek, err = generate()
				return err
			}
			err = decrypt(dek)
			dek = kes.DEK{}
			return err
		}, nil
	}
	return nil, fmt.Errorf("-op is %q, expected generate, decrypt, mixed or handshake", operation)
}

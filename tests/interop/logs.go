package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/minio/kms-go/kes"
)

const (
	// corrupt is a key whose file in the key store is no stored key. Whoever
	// starts the server puts it there.
	corrupt = "corrupt"

	// eventTimeout is how long an event may take from its response on.
	eventTimeout = 5 * time.Second
)

func (w *world) logChecks() {
	w.check("corrupt stored key: 502 that says no more", func(ctx context.Context) error {
		return w.useCorruptKey(ctx)
	})

	w.check("AuditLog: an event for each request, refused ones too", w.readAuditLog)

	w.check("AuditLog: WriteTo", func(ctx context.Context) error {
		streamCtx, stop := context.WithCancel(ctx)
		defer stop()
		stream, err := w.admin.AuditLog(streamCtx)
		if err != nil {
			return err
		}
		if _, err := w.app.Status(ctx); err != nil {
			return err
		}
		return copyUntil(stop, stream.WriteTo, func(line []byte) bool {
			var event struct {
				Request struct {
					Path     string
					Identity kes.Identity
				}
			}
			return json.Unmarshal(line, &event) == nil &&
				event.Request.Path == "/v1/status" && event.Request.Identity == w.appID
		})
	})

	w.check("ErrorLog: a failed read is an event", func(ctx context.Context) error {
		streamCtx, stop := context.WithCancel(ctx)
		defer stop()
		stream, err := w.admin.ErrorLog(streamCtx)
		if err != nil {
			return err
		}
		if err := w.useCorruptKey(ctx); err != nil {
			return err
		}
		defer time.AfterFunc(eventTimeout, stop).Stop()
		for stream.Next() {
			if stream.Message() != stream.Event().Message {
				return errors.New("Message and Event differ")
			}
			if strings.Contains(stream.Message(), corrupt) {
				stop()
				stream.Close()
				if stream.Next() {
					return errors.New("a closed stream goes on")
				}
				return nil
			}
		}
		return fmt.Errorf("no event that names the key %q", corrupt)
	})

	w.check("ErrorLog: WriteTo", func(ctx context.Context) error {
		streamCtx, stop := context.WithCancel(ctx)
		defer stop()
		stream, err := w.admin.ErrorLog(streamCtx)
		if err != nil {
			return err
		}
		if err := w.useCorruptKey(ctx); err != nil {
			return err
		}
		return copyUntil(stop, stream.WriteTo, func(line []byte) bool {
			var event struct{ Message string }
			return json.Unmarshal(line, &event) == nil && strings.Contains(event.Message, corrupt)
		})
	})
}

// useCorruptKey makes one request that fails in the key store.
func (w *world) useCorruptKey(ctx context.Context) error {
	_, err := w.admin.Encrypt(ctx, corrupt, []byte("x"), nil)
	if err == kes.ErrKeyNotFound {
		return fmt.Errorf("the key store has no key %q: the server's fixture must have a broken file of that name", corrupt)
	}
	return wantError("encrypt", err, kes.NewError(502, "failed to read key"))
}

// errFound ends a copy that has seen enough.
var errFound = errors.New("found")

// eventWriter is a Writer that gets one event with each Write.
type eventWriter func(line []byte) error

func (f eventWriter) Write(line []byte) (int, error) {
	return len(line), f(line)
}

// copyUntil copies a stream until an event is found, at most for eventTimeout.
func copyUntil(stop func(), writeTo func(io.Writer) (int64, error), found func(line []byte) bool) error {
	defer time.AfterFunc(eventTimeout, stop).Stop()
	n, err := writeTo(eventWriter(func(line []byte) error {
		if found(line) {
			return errFound
		}
		return nil
	}))
	if err != errFound {
		return fmt.Errorf("%d bytes and not the expected event: %v", n, err)
	}
	return nil
}

// audited is what the audit log must say of a request.
type audited struct {
	path string
	who  kes.Identity
	code int
}

// readAuditLog makes requests of every kind and waits for the event of each.
func (w *world) readAuditLog(ctx context.Context) error {
	streamCtx, stop := context.WithCancel(ctx)
	defer stop()
	begin := time.Now()
	stream, err := w.admin.AuditLog(streamCtx)
	if err != nil {
		return err
	}
	if took := time.Since(begin); took > time.Second {
		return fmt.Errorf("an idle server took %v to answer the subscription", took)
	}
	events := make(chan kes.AuditEvent)
	go func() {
		defer close(events)
		defer stream.Close()
		for stream.Next() {
			select {
			case events <- stream.Event():
			case <-streamCtx.Done():
				return
			}
		}
	}()

	// The events may arrive while requests are still being made; the server
	// keeps a backlog, which these few do not fill.
	pending := map[audited]int{}
	for _, r := range w.requestsToAudit(ctx) {
		if err := r.do(); statusOf(err) != r.code {
			return fmt.Errorf("%s: status %d, expected %d: %v", r.path, statusOf(err), r.code, err)
		}
		pending[r.audited]++
	}
	if _, err := w.admin.Metrics(ctx); err != nil { // must leave no event
		return err
	}

	timeout := time.After(eventTimeout)
	for len(pending) > 0 {
		select {
		case event, ok := <-events:
			if !ok {
				return fmt.Errorf("the stream ended; still missing: %v", pending)
			}
			if strings.HasPrefix(event.APIPath, "/v1/log/") {
				continue // of a subscription, perhaps one that an earlier check ended
			}
			seen := audited{event.APIPath, event.ClientIdentity, event.StatusCode}
			if pending[seen] == 0 {
				return fmt.Errorf("an event for no request, or a second one: %+v", event)
			}
			if pending[seen]--; pending[seen] == 0 {
				delete(pending, seen)
			}
			if err := w.saneEvent(event, begin); err != nil {
				return fmt.Errorf("%w in %+v", err, event)
			}
		case <-timeout:
			return fmt.Errorf("no event within %v of: %v", eventTimeout, pending)
		}
	}
	quiet := time.After(300 * time.Millisecond)
	for {
		select {
		case event, ok := <-events:
			if !ok {
				return errors.New("the stream ended")
			}
			if !strings.HasPrefix(event.APIPath, "/v1/log/") {
				return fmt.Errorf("an event for no request, or a second one: %+v", event)
			}
		case <-quiet:
			return nil
		}
	}
}

func (w *world) saneEvent(event kes.AuditEvent, begin time.Time) error {
	now := time.Now()
	if w.loopback && (event.Timestamp.Before(begin.Add(-time.Second)) || event.Timestamp.After(now.Add(time.Second))) {
		return errors.New("time outside of this check")
	}
	if event.ClientIP == nil || w.loopback && !event.ClientIP.IsLoopback() {
		return errors.New("wrong address")
	}
	if event.ResponseTime <= 0 || event.ResponseTime > now.Sub(begin) {
		return errors.New("impossible response time")
	}
	return nil
}

// request is one to make, and what the audit log must say of it.
type request struct {
	audited
	do func() error
}

// requestsToAudit returns requests of every kind, in the order to make them.
func (w *world) requestsToAudit(ctx context.Context) []request {
	var (
		key        = w.run + "-audit"
		imported   = w.run + "-audit-import"
		ciphertext []byte
	)
	requests := []request{
		{audited{"/v1/key/create/" + key, w.adminID, 200}, func() error {
			return w.admin.CreateKey(ctx, key)
		}},
		{audited{"/v1/key/create/" + key, w.appID, 400}, func() error {
			return w.app.CreateKey(ctx, key)
		}},
		{audited{"/v1/key/create/a.b", w.adminID, 400}, func() error {
			return w.admin.CreateKey(ctx, "a.b")
		}},
		{audited{"/v1/key/create/other", w.appID, 403}, func() error {
			return w.app.CreateKey(ctx, "other")
		}},
		{audited{"/v1/key/import/" + imported, w.adminID, 200}, func() error {
			return w.admin.ImportKey(ctx, imported, &kes.ImportKeyRequest{Key: newSecret()})
		}},
		{audited{"/v1/key/import/" + imported, w.adminID, 406}, func() error {
			return w.admin.ImportKey(ctx, imported, &kes.ImportKeyRequest{Key: newSecret()[:31]})
		}},
		{audited{"/v1/key/describe/" + key, w.adminID, 200}, func() error {
			_, err := w.admin.DescribeKey(ctx, key)
			return err
		}},
		{audited{"/v1/key/generate/" + key, w.appID, 200}, func() error {
			dek, err := w.app.GenerateKey(ctx, key, nil)
			ciphertext = dek.Ciphertext
			return err
		}},
		{audited{"/v1/key/generate/" + missing, w.appID, 404}, func() error {
			_, err := w.app.GenerateKey(ctx, missing, nil)
			return err
		}},
		{audited{"/v1/key/decrypt/" + key, w.appID, 200}, func() error {
			_, err := w.app.Decrypt(ctx, key, ciphertext, nil)
			return err
		}},
		{audited{"/v1/key/decrypt/" + key, w.appID, 400}, func() error {
			_, err := w.app.Decrypt(ctx, key, ciphertext, []byte("other"))
			return err
		}},
		{audited{"/v1/key/encrypt/" + key, w.appID, 200}, func() error {
			_, err := w.app.Encrypt(ctx, key, []byte("x"), nil)
			return err
		}},
		{audited{"/v1/key/encrypt/" + key, w.appID, 413}, func() error {
			_, err := w.app.Encrypt(ctx, key, make([]byte, maxBody), nil)
			return err
		}},
		{audited{"/v1/key/encrypt/" + corrupt, w.adminID, 502}, func() error {
			_, err := w.admin.Encrypt(ctx, corrupt, []byte("x"), nil)
			return err
		}},
		{audited{"/v1/key/hmac/" + key, w.adminID, 200}, func() error {
			_, err := w.admin.HMAC(ctx, key, []byte("x"))
			return err
		}},
		{audited{"/v1/key/list/" + key, w.appID, 200}, func() error {
			_, _, err := w.app.ListKeys(ctx, key, 0)
			return err
		}},
		{audited{"/v1/key/list/", w.appID, 403}, func() error {
			_, _, err := w.app.ListKeys(ctx, "", 0)
			return err
		}},
		{audited{"/v1/key/delete/" + key, w.adminID, 200}, func() error {
			return w.admin.DeleteKey(ctx, key)
		}},
		{audited{"/v1/key/delete/" + key, w.adminID, 404}, func() error {
			return w.admin.DeleteKey(ctx, key)
		}},
		{audited{"/v1/policy/describe/nope", w.adminID, 404}, func() error {
			_, err := w.admin.DescribePolicy(ctx, "nope")
			return err
		}},
		{audited{"/v1/identity/self/describe", w.strangerID, 404}, func() error {
			_, _, err := w.stranger.DescribeSelf(ctx)
			return err
		}},
		{audited{"/version", w.strangerID, 200}, func() error {
			_, err := w.stranger.Version(ctx)
			return err
		}},
		{audited{"/v1/status", w.strangerID, 403}, func() error {
			_, err := w.stranger.Status(ctx)
			return err
		}},
	}

	// The rest of the SDK's calls, as the admin.
	paths := map[string]string{
		"IsReady":          "/v1/ready",
		"Status":           "/v1/status",
		"APIs":             "/v1/api",
		"ListKeys":         "/v1/key/list/",
		"DescribePolicy":   "/v1/policy/describe/my-app",
		"GetPolicy":        "/v1/policy/read/my-app",
		"ListPolicies":     "/v1/policy/list/",
		"DescribeIdentity": "/v1/identity/describe/" + w.adminID.String(),
		"DescribeSelf":     "/v1/identity/self/describe",
		"ListIdentities":   "/v1/identity/list/",
	}
	for _, call := range w.calls() {
		if path, ok := paths[call.method]; ok {
			requests = append(requests, request{audited{path, w.adminID, 200}, func() error {
				return call.make(ctx, w.admin)
			}})
		}
	}
	return requests
}

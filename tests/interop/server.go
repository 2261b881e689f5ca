package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/minio/kms-go/kes"
)

// maxBody is the body limit of the routes that take a body.
const maxBody = 1 << 20

// routes is what /v1/api must list, no more and no less.
func routes() []kes.API {
	const s = time.Second
	return []kes.API{
		{Method: "GET", Path: "/version", Timeout: 10 * s},
		{Method: "GET", Path: "/v1/ready", Timeout: 15 * s},
		{Method: "GET", Path: "/v1/status", Timeout: 15 * s},
		{Method: "GET", Path: "/v1/metrics", Timeout: 15 * s},
		{Method: "GET", Path: "/v1/api", Timeout: 10 * s},
		{Method: "PUT", Path: "/v1/key/create/", Timeout: 15 * s},
		{Method: "PUT", Path: "/v1/key/import/", MaxBody: maxBody, Timeout: 15 * s},
		{Method: "GET", Path: "/v1/key/describe/", Timeout: 15 * s},
		{Method: "DELETE", Path: "/v1/key/delete/", Timeout: 15 * s},
		{Method: "GET", Path: "/v1/key/list/", Timeout: 15 * s},
		{Method: "PUT", Path: "/v1/key/generate/", MaxBody: maxBody, Timeout: 15 * s},
		{Method: "PUT", Path: "/v1/key/encrypt/", MaxBody: maxBody, Timeout: 15 * s},
		{Method: "PUT", Path: "/v1/key/decrypt/", MaxBody: maxBody, Timeout: 15 * s},
		{Method: "PUT", Path: "/v1/key/hmac/", MaxBody: maxBody, Timeout: 15 * s},
		{Method: "GET", Path: "/v1/policy/describe/", Timeout: 15 * s},
		{Method: "GET", Path: "/v1/policy/read/", Timeout: 15 * s},
		{Method: "GET", Path: "/v1/policy/list/", Timeout: 15 * s},
		{Method: "GET", Path: "/v1/identity/describe/", Timeout: 15 * s},
		{Method: "GET", Path: "/v1/identity/list/", Timeout: 15 * s},
		{Method: "GET", Path: "/v1/identity/self/describe", Timeout: 15 * s},
		{Method: "GET", Path: "/v1/log/error"},
		{Method: "GET", Path: "/v1/log/audit"},
	}
}

func (w *world) serverChecks() {
	w.check("Version, for the admin and for a stranger", func(ctx context.Context) error {
		version, err := w.admin.Version(ctx)
		if err != nil {
			return err
		}
		if version == "" {
			return errors.New("empty version")
		}
		same, err := w.stranger.Version(ctx)
		if err != nil {
			return fmt.Errorf("stranger: %w", err)
		}
		if same != version {
			return fmt.Errorf("the stranger reads version %q, the admin %q", same, version)
		}
		return nil
	})

	w.check("IsReady", func(ctx context.Context) error {
		ready, err := w.admin.IsReady(ctx)
		if err != nil {
			return err
		}
		if !ready {
			return errors.New("not ready")
		}
		return nil
	})

	w.check("Status", func(ctx context.Context) error {
		version, err := w.admin.Version(ctx)
		if err != nil {
			return err
		}
		// The uptime is in whole seconds, so the first one has to pass.
		return eventually(ctx, 3*time.Second, func() error {
			state, err := w.admin.Status(ctx)
			if err != nil {
				return err
			}
			return w.saneState(state, version)
		})
	})

	w.check("Status, allowed by a policy", func(ctx context.Context) error {
		_, err := w.app.Status(ctx)
		return err
	})

	w.check("APIs lists every route with its limits", func(ctx context.Context) error {
		apis, err := w.admin.APIs(ctx)
		if err != nil {
			return err
		}
		listed := map[string]kes.API{}
		for _, api := range apis {
			if _, twice := listed[api.Path]; twice {
				return fmt.Errorf("%s is listed twice", api.Path)
			}
			listed[api.Path] = api
		}
		var wrong []error
		for _, want := range routes() {
			got, ok := listed[want.Path]
			if !ok {
				wrong = append(wrong, fmt.Errorf("%s is not listed", want.Path))
			} else if got != want {
				wrong = append(wrong, fmt.Errorf("%+v, expected %+v", got, want))
			}
			delete(listed, want.Path)
		}
		for path := range listed {
			wrong = append(wrong, fmt.Errorf("%s is no route of the contract", path))
		}
		return errors.Join(wrong...)
	})
}

func (w *world) saneState(state kes.State, version string) error {
	if state.Version != version {
		return fmt.Errorf("version is %q, /version says %q", state.Version, version)
	}
	if w.loopback && (state.OS != runtime.GOOS || state.Arch != runtime.GOARCH) {
		return fmt.Errorf("system is %s/%s, expected %s/%s", state.OS, state.Arch, runtime.GOOS, runtime.GOARCH)
	}
	if state.UpTime <= 0 {
		return fmt.Errorf("uptime is %v", state.UpTime)
	}
	if state.CPUs < 1 || state.UsableCPUs < 1 || state.UsableCPUs > state.CPUs {
		return fmt.Errorf("%d CPUs, %d of them usable", state.CPUs, state.UsableCPUs)
	}
	if state.HeapAlloc == 0 || state.StackAlloc == 0 {
		return fmt.Errorf("heap %d B, stack %d B", state.HeapAlloc, state.StackAlloc)
	}
	// The number is milliseconds, at least 1; the SDK reads it as nanoseconds.
	if state.KeyStoreLatency < 1 {
		return fmt.Errorf("key store latency is %d", state.KeyStoreLatency)
	}
	if !state.KeyStoreReachable || !state.KeystoreAvailable {
		return fmt.Errorf("key store reachable %t, available %t", state.KeyStoreReachable, state.KeystoreAvailable)
	}
	return nil
}

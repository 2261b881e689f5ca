package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/minio/kms-go/kes"
)

// wire notes what really went over the connections of all clients.
type wire struct {
	want string // protocol

	mu        sync.Mutex
	responses int
	answered  map[string]bool // paths that got a 200
	problems  []string
}

func (w *wire) note(req *http.Request, resp *http.Response, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()

	what := req.Method + " " + req.URL.Path
	switch {
	case errors.Is(err, context.Canceled):
	case err != nil:
		// The SDK tries again in silence, so a lost request shows only here.
		w.problem("%s: %v", what, err)
	default:
		w.responses++
		if resp.Proto != w.want {
			w.problem("%s: response over %s, expected %s", what, resp.Proto, w.want)
		}
		if resp.StatusCode >= 300 && resp.StatusCode < 400 {
			w.problem("%s: redirected (%d)", what, resp.StatusCode)
		}
		if resp.StatusCode == http.StatusOK {
			w.answered[req.URL.Path] = true
		}
	}
}

// silent tells that no response came so far.
func (w *wire) silent() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.responses == 0
}

// problem keeps the first few; the caller holds the lock.
func (w *wire) problem(format string, args ...any) {
	if len(w.problems) < 5 {
		w.problems = append(w.problems, fmt.Sprintf(format, args...))
	}
}

// tracer is a RoundTripper that tells the wire about each response and counts
// the connections it had to open.
type tracer struct {
	base   *http.Transport
	wire   *wire // nil: nothing is noted
	opened atomic.Int64
}

func (t *tracer) RoundTrip(req *http.Request) (*http.Response, error) {
	trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if !info.Reused {
			t.opened.Add(1)
		}
	}}
	resp, err := t.base.RoundTrip(req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
	if t.wire != nil {
		t.wire.note(req, resp, err)
	}
	return resp, err
}

// tracedClient is an SDK client on a traced transport.
type tracedClient struct {
	*kes.Client
	*tracer
}

// trace puts a tracer under a client that the SDK made, leaving the transport
// that the SDK chose as it is, unless -only narrows the protocols.
func (w *world) trace(client *kes.Client, notes *wire) *tracedClient {
	base := client.HTTPClient.Transport.(*http.Transport)
	if w.only {
		base.Protocols = new(http.Protocols)
		base.Protocols.SetHTTP1(w.protocol == "HTTP/1.1")
		base.Protocols.SetHTTP2(w.protocol == "HTTP/2.0")
	}
	t := &tracer{base: base, wire: notes}
	client.HTTPClient.Transport = t
	return &tracedClient{client, t}
}

// newClient returns a client as an application makes it that trusts one CA.
func (w *world) newClient(key kes.APIKey) (*tracedClient, error) {
	cert, err := kes.GenerateCertificate(key)
	if err != nil {
		return nil, err
	}
	return w.trace(kes.NewClientWithConfig(w.server, w.tlsConfig(cert)), w.wire), nil
}

// newPooledClient is newClient with a pool big enough that n requests at a time
// keep n connections, where the SDK's default keeps two.
func (w *world) newPooledClient(key kes.APIKey, n int) (*tracedClient, error) {
	client, err := w.newClient(key)
	if err != nil {
		return nil, err
	}
	client.base.MaxIdleConnsPerHost = n
	client.base.MaxConnsPerHost = n
	return client, nil
}

func (w *world) tlsConfig(certs ...tls.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS12,
		RootCAs:      w.roots,
		Certificates: certs,
	}
}

// clientChecks are about the ways a client may connect.
func (w *world) clientChecks() {
	w.check("client: kes.NewClient with the system's roots", func(ctx context.Context) error {
		client, err := kes.NewClient(w.server, w.adminKey)
		if err != nil {
			return err
		}
		_, err = w.trace(client, w.wire).Status(ctx)
		return err
	})

	w.check("client: another certificate with the same key is the same identity", func(ctx context.Context) error {
		client, err := kes.NewClient(w.server, w.appKey, func(cert *x509.Certificate) {
			cert.Subject.CommonName = "renewed"
			cert.NotAfter = time.Now().Add(time.Hour)
		})
		if err != nil {
			return err
		}
		info, _, err := w.trace(client, w.wire).DescribeSelf(ctx)
		if err != nil {
			return err
		}
		if info.Identity != w.appID {
			return fmt.Errorf("identity is %v, expected %v", info.Identity, w.appID)
		}
		return nil
	})

	w.check("client: an expired certificate of a known key", func(ctx context.Context) error {
		client, err := kes.NewClient(w.server, w.adminKey, func(cert *x509.Certificate) {
			cert.NotBefore = time.Now().Add(-2 * time.Hour)
			cert.NotAfter = time.Now().Add(-time.Hour)
		})
		if err != nil {
			return err
		}
		_, err = w.trace(client, w.wire).Status(ctx)
		return err
	})

	w.check("client: TLS 1.2", func(ctx context.Context) error {
		client, err := w.newClient(w.adminKey)
		if err != nil {
			return err
		}
		client.base.TLSClientConfig.MaxVersion = tls.VersionTLS12
		_, err = client.Status(ctx)
		return err
	})

	w.check("client: no certificate is a connection error", func(ctx context.Context) error {
		client := w.trace(kes.NewClientWithConfig(w.server, w.tlsConfig()), nil)
		_, err := client.Version(ctx)
		if _, ok := kes.IsConnError(err); !ok {
			return fmt.Errorf("got %v, expected a kes.ConnError", err)
		}
		return nil
	})

	w.check("client: requests in turn share one connection", func(ctx context.Context) error {
		client, err := w.newClient(w.adminKey)
		if err != nil {
			return err
		}
		for i := range 10 {
			name := fmt.Sprintf("%s-turn-%d", w.run, i)
			if err := client.CreateKey(ctx, name); err != nil {
				return err
			}
			dek, err := client.GenerateKey(ctx, name, nil)
			if err != nil {
				return err
			}
			if _, err := client.Decrypt(ctx, name, dek.Ciphertext, nil); err != nil {
				return err
			}
			_, err = client.Decrypt(ctx, name, dek.Ciphertext, []byte("other"))
			if err := wantError("decrypt", err, kes.ErrDecrypt); err != nil {
				return err
			}
			if _, _, err := client.ListPolicies(ctx, "", 0); err != nil {
				return err
			}
			if err := client.DeleteKey(ctx, name); err != nil {
				return err
			}
		}
		if n := client.opened.Load(); n != 1 {
			return fmt.Errorf("60 requests took %d connections, expected 1", n)
		}
		return nil
	})
}

// wireChecks are about all requests together, so they come last.
func (w *world) wireChecks() {
	w.check("sdk: every call of the client was made and answered", func(context.Context) error {
		w.wire.mu.Lock()
		defer w.wire.mu.Unlock()

		routes := map[string]string{}
		for _, call := range w.calls() {
			routes[call.method] = call.route
		}
		client := reflect.TypeFor[*kes.Client]()
		for i := range client.NumMethod() {
			method := client.Method(i).Name
			route, ok := routes[method]
			if !ok {
				return fmt.Errorf("the SDK has a call that this program does not make: %s", method)
			}
			answered := false
			for path := range w.wire.answered {
				answered = answered || strings.HasPrefix(path, route)
			}
			if !answered {
				return fmt.Errorf("%s: no request got a 200", method)
			}
		}
		return nil
	})

	w.check("wire: every response over "+w.protocol+", none redirected or lost", func(context.Context) error {
		w.wire.mu.Lock()
		defer w.wire.mu.Unlock()
		if w.wire.responses == 0 {
			return errors.New("no responses")
		}
		if len(w.wire.problems) > 0 {
			return fmt.Errorf("of %d responses: %s", w.wire.responses, strings.Join(w.wire.problems, "; "))
		}
		return nil
	})
}

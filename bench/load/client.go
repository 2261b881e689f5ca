package main

import (
	"io"
	"log"
	"net/http"
	"sync/atomic"

	"github.com/minio/kms-go/kes"
)

// transport is a RoundTripper for which everything but a 200 over the expected
// protocol is fatal. The SDK sees too late to tell: it tries some errors again
// in silence.
type transport struct {
	base     *http.Transport
	protocol string
	fresh    bool // each request gets a connection of its own
	requests atomic.Int64
}

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	base := t.base
	if t.fresh {
		base = base.Clone()
	}
	t.requests.Add(1)
	resp, err := base.RoundTrip(req)
	switch {
	case err != nil:
		log.Fatalf("%s: %v", req.URL.Path, err)
	case resp.Proto != t.protocol:
		log.Fatalf("%s: response over %s, expected %s", req.URL.Path, resp.Proto, t.protocol)
	case resp.StatusCode != http.StatusOK:
		body, _ := io.ReadAll(resp.Body)
		log.Fatalf("%s: %s: %s", req.URL.Path, resp.Status, body)
	}
	return resp, nil
}

// newClient returns an SDK client and the transport under it, which is the
// SDK's own but for the protocol and the connections that it keeps.
func newClient(opts options) (*kes.Client, *transport) {
	client := kes.NewClientWithConfig(opts.server, opts.tls)
	base := client.HTTPClient.Transport.(*http.Transport)
	base.Protocols = new(http.Protocols)
	base.Protocols.SetHTTP1(opts.protocol == "HTTP/1.1")
	base.Protocols.SetHTTP2(opts.protocol == "HTTP/2.0")
	base.MaxIdleConns = opts.concurrency
	base.MaxIdleConnsPerHost = opts.concurrency // where the SDK's default keeps two
	base.MaxConnsPerHost = opts.concurrency     // or as many more would be opened at first, and kept
	t := &transport{base: base, protocol: opts.protocol, fresh: opts.operation == "handshake"}
	base.DisableKeepAlives = t.fresh
	client.HTTPClient.Transport = t
	return client, t
}

// Command interop runs the official Go SDK against a running kes server: it
// makes every call of the SDK's client and checks every result and every error
// value that the contract promises. It prints one line a check and exits with
// status 1 if any failed. It never prints a key.
package main

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/url"
	"os"
	"time"

	"github.com/minio/kms-go/kes"
)

// pageSize is the most names that a server puts on one page of a listing.
const pageSize = 1024

// options are the command line, parsed and checked.
type options struct {
	server   string // https://host:port
	protocol string // HTTP/1.1 or HTTP/2.0
	only     bool   // offer the server no protocol but that one
	many     int    // how many keys to create for the paging check
	caFile   string
	roots    *x509.CertPool
	timeout  time.Duration // of the whole run
	without  map[string]bool

	adminKey, appKey, strangerKey kes.APIKey
}

// world is what the checks share.
type world struct {
	*suite
	options
	wire *wire

	admin, app, stranger       *kes.Client
	adminID, appID, strangerID kes.Identity

	// run begins the name of every key that this run creates, so that runs
	// against the same server do not meet. The policy my-app covers it.
	run string
	// loopback tells that the server is on this machine.
	loopback bool
}

func main() {
	opts, err := parseOptions()
	if err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		os.Exit(2)
	}
	// For kes.NewClient, which trusts the system's roots and nothing else. It
	// counts only if set before the first handshake of the process.
	os.Setenv("SSL_CERT_FILE", opts.caFile)

	w, err := newWorld(opts)
	if err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		os.Exit(2)
	}

	w.serverChecks()
	if w.wire.silent() {
		w.finish() // every further check would only wait for its timeout
	}
	w.keyChecks()
	w.cryptoChecks()
	w.policyChecks()
	w.identityChecks()
	w.refusalChecks()
	w.clientChecks()
	w.listingChecks()
	w.metricChecks()
	w.loadChecks()
	w.logChecks()
	w.wireChecks()
	w.finish()
}

func parseOptions() (options, error) {
	var (
		opts                 options
		admin, app, stranger string
	)
	flag.StringVar(&opts.server, "server", "https://127.0.0.1:7373", "server to test")
	flag.StringVar(&opts.caFile, "ca", "", "PEM file with the certificate to trust (required)")
	flag.StringVar(&admin, "admin-key", "", "API key of the admin (required)")
	flag.StringVar(&app, "app-key", "", "API key of the identity with the policy my-app (required)")
	flag.StringVar(&stranger, "stranger-key", "", "API key of an identity without a policy (required)")
	flag.StringVar(&opts.protocol, "protocol", "HTTP/1.1", "protocol each response must come over: HTTP/1.1 or HTTP/2.0")
	flag.BoolVar(&opts.only, "only", false, "offer the server no protocol but -protocol (the SDK offers both)")
	flag.IntVar(&opts.many, "many", 1100, "keys to create for the paging check, more than 1024")
	flag.DurationVar(&opts.timeout, "timeout", 55*time.Second, "give up on the whole run after this")
	opts.without = map[string]bool{}
	flag.Func("without", "leave out the check of this `name`; may be repeated", func(name string) error {
		opts.without[name] = false
		return nil
	})
	flag.Parse()

	if flag.NArg() > 0 {
		return options{}, fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	if opts.protocol != "HTTP/1.1" && opts.protocol != "HTTP/2.0" {
		return options{}, fmt.Errorf("-protocol is %q, expected HTTP/1.1 or HTTP/2.0", opts.protocol)
	}
	if opts.many <= pageSize {
		return options{}, fmt.Errorf("-many is %d: a second page needs more than %d keys", opts.many, pageSize)
	}

	// The SDK's own parse errors are not shown: they may quote the key.
	for _, k := range []struct {
		flag, text string
		key        *kes.APIKey
	}{
		{"-admin-key", admin, &opts.adminKey},
		{"-app-key", app, &opts.appKey},
		{"-stranger-key", stranger, &opts.strangerKey},
	} {
		key, err := kes.ParseAPIKey(k.text)
		if err != nil {
			return options{}, fmt.Errorf("%s is missing or no API key", k.flag)
		}
		*k.key = key
	}

	pem, err := os.ReadFile(opts.caFile)
	if err != nil {
		return options{}, fmt.Errorf("-ca: %w", err)
	}
	opts.roots = x509.NewCertPool()
	if !opts.roots.AppendCertsFromPEM(pem) {
		return options{}, errors.New("-ca: no certificate in the file")
	}
	return opts, nil
}

func newWorld(opts options) (*world, error) {
	server, err := url.Parse(opts.server)
	if err != nil || server.Scheme != "https" {
		return nil, errors.New("-server is no https address")
	}
	ip := net.ParseIP(server.Hostname())

	var id [4]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, err
	}
	w := &world{
		suite:      newSuite(opts.timeout, opts.without),
		options:    opts,
		wire:       &wire{want: opts.protocol, answered: map[string]bool{}},
		run:        "my-app-" + hex.EncodeToString(id[:]),
		adminID:    opts.adminKey.Identity(),
		appID:      opts.appKey.Identity(),
		strangerID: opts.strangerKey.Identity(),
		loopback:   server.Hostname() == "localhost" || ip.IsLoopback(),
	}
	for _, c := range []struct {
		client **kes.Client
		key    kes.APIKey
	}{
		{&w.admin, opts.adminKey},
		{&w.app, opts.appKey},
		{&w.stranger, opts.strangerKey},
	} {
		client, err := w.newClient(c.key)
		if err != nil {
			return nil, err
		}
		*c.client = client.Client
	}
	return w, nil
}

// Command load drives a kes server through the official Go SDK for a while and
// prints what it measured as JSON. Any error ends it with status 1: a rate with
// errors in it means nothing. It never prints a key.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/minio/kms-go/kes"
)

// options are the command line, parsed and checked.
type options struct {
	server      string // https://host:port
	name        string // of the key in use
	operation   string
	protocol    string // HTTP/1.1 or HTTP/2.0
	concurrency int
	warmUp      time.Duration
	duration    time.Duration

	tls *tls.Config
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("load: ")

	opts, err := parseOptions()
	if err != nil {
		log.Print(err)
		os.Exit(2)
	}
	result, err := run(opts)
	if err != nil {
		log.Fatal(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
		log.Fatal(err)
	}
}

func parseOptions() (options, error) {
	var (
		opts         options
		apiKey, file string
	)
	flag.StringVar(&opts.server, "server", "https://127.0.0.1:7373", "server to load")
	flag.StringVar(&file, "ca", "", "PEM file with the certificate to trust (required)")
	flag.StringVar(&apiKey, "key", "", "API key of an identity that may use the key -name (required)")
	flag.StringVar(&opts.name, "name", "my-app-bench", "name of a key that exists")
	flag.StringVar(&opts.operation, "op", "generate", "generate, decrypt, mixed, or handshake: generate, each time on a new connection")
	flag.StringVar(&opts.protocol, "protocol", "HTTP/2.0", "protocol of every response: HTTP/1.1 or HTTP/2.0")
	flag.IntVar(&opts.concurrency, "concurrency", 32, "requests at a time")
	flag.DurationVar(&opts.warmUp, "warm-up", 500*time.Millisecond, "time before what is measured")
	flag.DurationVar(&opts.duration, "duration", 3*time.Second, "time that is measured")
	flag.Parse()

	if flag.NArg() > 0 {
		return options{}, fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	if opts.protocol != "HTTP/1.1" && opts.protocol != "HTTP/2.0" {
		return options{}, fmt.Errorf("-protocol is %q, expected HTTP/1.1 or HTTP/2.0", opts.protocol)
	}
	if opts.concurrency < 1 || opts.duration <= 0 {
		return options{}, errors.New("-concurrency and -duration must be positive")
	}

	key, err := kes.ParseAPIKey(apiKey)
	if err != nil {
		return options{}, errors.New("-key is missing or no API key") // the SDK's own error may quote the key
	}
	cert, err := kes.GenerateCertificate(key)
	if err != nil {
		return options{}, err
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return options{}, fmt.Errorf("-ca: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return options{}, errors.New("-ca: no certificate in the file")
	}
	opts.tls = &tls.Config{
		MinVersion:   tls.VersionTLS12,
		RootCAs:      roots,
		Certificates: []tls.Certificate{cert}, // and no session cache, so nothing is resumed
	}
	return opts, nil
}

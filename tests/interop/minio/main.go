// Command minio makes the requests to a kes server that MinIO makes, with the
// official Go SDK as MinIO does, and finds its server by MinIO's variables. It
// is not MinIO, and stores nothing. It prints a line a step and exits with
// status 1 at the first that does not go as it should. It never prints a key.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/minio/kms-go/kes"
)

func main() {
	own := flag.String("own", "", "name of another key of this deployment, to create and use")
	foreign := flag.String("foreign", "", "name of a key that this deployment may not use")
	may := flag.String("may", "", "what else it may, with commas between: list, status, metrics, api")
	flag.Parse()

	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	if err := play(ctx, *own, *foreign, strings.Split(*may, ",")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// connect makes a client as MINIO_KMS_KES_… say.
func connect() (*kes.Client, error) {
	// The SDK's own parse error is not shown: it may quote the key.
	key, err := kes.ParseAPIKey(os.Getenv("MINIO_KMS_KES_API_KEY"))
	if err != nil {
		return nil, errors.New("MINIO_KMS_KES_API_KEY is no API key")
	}
	cert, err := kes.GenerateCertificate(key)
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(os.Getenv("MINIO_KMS_KES_CAPATH"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, errors.New("MINIO_KMS_KES_CAPATH holds no certificate")
	}
	client := kes.NewClientWithConfig("", &tls.Config{
		MinVersion:   tls.VersionTLS12,
		RootCAs:      roots,
		Certificates: []tls.Certificate{cert},
	})
	client.Endpoints = strings.Split(os.Getenv("MINIO_KMS_KES_ENDPOINT"), ",")
	return client, nil
}

func play(ctx context.Context, own, foreign string, may []string) error {
	client, err := connect()
	if err != nil {
		return err
	}
	if _, err := client.Version(ctx); err != nil {
		return err
	}
	fmt.Println("connected")

	key := os.Getenv("MINIO_KMS_KES_KEY_NAME")
	for _, name := range []string{key, own} {
		if err := client.CreateKey(ctx, name); err != nil && err != kes.ErrKeyExists {
			return fmt.Errorf("create %s: %w", name, err)
		}
		if err := client.CreateKey(ctx, name); err != kes.ErrKeyExists {
			return fmt.Errorf("create %s again: %v", name, err)
		}
		if err := writeAndRead(ctx, client, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		fmt.Println("used", name)
	}

	for name, call := range map[string]func() error{
		"list":    func() error { return list(ctx, client, key, own) },
		"status":  func() error { _, err := client.Status(ctx); return err },
		"metrics": func() error { _, err := client.Metrics(ctx); return err },
		"api":     func() error { _, err := client.APIs(ctx); return err },
	} {
		var want error
		if !slices.Contains(may, name) {
			want = kes.ErrNotAllowed
		}
		if err := call(); err != want {
			return fmt.Errorf("%s: %v, expected %v", name, err, want)
		}
	}
	fmt.Println("may", may)
	return refused(ctx, client, key, foreign)
}

// writeAndRead does what one object takes: a data key, and its decryption. The
// context binds the data key to bucket and object.
func writeAndRead(ctx context.Context, client *kes.Client, name string) error {
	object := []byte(`{"documents":"documents/report.pdf"}`)
	dek, err := client.GenerateKey(ctx, name, object)
	if err != nil {
		return err
	}
	plaintext, err := client.Decrypt(ctx, name, dek.Ciphertext, object)
	if err != nil {
		return err
	}
	if len(plaintext) != 32 || !bytes.Equal(plaintext, dek.Plaintext) {
		return errors.New("the data key decrypts to something else")
	}
	_, err = client.Decrypt(ctx, name, dek.Ciphertext, []byte(`{"documents":"documents/other.pdf"}`))
	if err != kes.ErrDecrypt {
		return fmt.Errorf("the data key of one object for another: %v", err)
	}
	return nil
}

// list looks for names among all keys that there are.
func list(ctx context.Context, client *kes.Client, names ...string) error {
	keys, _, err := client.ListKeys(ctx, "*", -1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !slices.Contains(keys, name) {
			return fmt.Errorf("%s is not among %v", name, keys)
		}
	}
	return nil
}

// refused makes every other call, each of which must be refused.
func refused(ctx context.Context, client *kes.Client, key, foreign string) error {
	for name, call := range map[string]func() error{
		"create":            func() error { return client.CreateKey(ctx, foreign) },
		"generate":          func() error { _, err := client.GenerateKey(ctx, foreign, nil); return err },
		"decrypt":           func() error { _, err := client.Decrypt(ctx, foreign, make([]byte, 76), nil); return err },
		"import":            func() error { return client.ImportKey(ctx, key, &kes.ImportKeyRequest{Key: make([]byte, 32)}) },
		"describe":          func() error { _, err := client.DescribeKey(ctx, key); return err },
		"delete":            func() error { return client.DeleteKey(ctx, key) },
		"encrypt":           func() error { _, err := client.Encrypt(ctx, key, []byte("x"), nil); return err },
		"hmac":              func() error { _, err := client.HMAC(ctx, key, []byte("x")); return err },
		"ready":             func() error { _, err := client.IsReady(ctx); return err },
		"describe policy":   func() error { _, err := client.DescribePolicy(ctx, "minio"); return err },
		"read policy":       func() error { _, err := client.GetPolicy(ctx, "minio"); return err },
		"list policies":     func() error { _, _, err := client.ListPolicies(ctx, "", 0); return err },
		"describe identity": func() error { _, err := client.DescribeIdentity(ctx, "disabled"); return err },
		"list identities":   func() error { _, _, err := client.ListIdentities(ctx, "", 0); return err },
		"audit log":         func() error { _, err := client.AuditLog(ctx); return err },
		"error log":         func() error { _, err := client.ErrorLog(ctx); return err },
	} {
		if err := call(); err != kes.ErrNotAllowed {
			return fmt.Errorf("%s: %v, expected %v", name, err, kes.ErrNotAllowed)
		}
	}
	fmt.Println("refused everything else")
	return nil
}

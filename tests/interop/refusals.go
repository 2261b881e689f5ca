package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/minio/kms-go/kes"
)

// call is one call of the SDK's client.
type call struct {
	method string // of kes.Client
	route  string // the path that it asks for begins with this
	make   func(context.Context, *kes.Client) error
}

// calls returns every call that the SDK's client has, with arguments that would
// do no harm if a call were allowed by mistake.
func (w *world) calls() []call {
	name := w.run + "-refused"
	return []call{
		{"Version", "/version", func(ctx context.Context, c *kes.Client) error {
			_, err := c.Version(ctx)
			return err
		}},
		{"IsReady", "/v1/ready", func(ctx context.Context, c *kes.Client) error {
			_, err := c.IsReady(ctx)
			return err
		}},
		{"Status", "/v1/status", func(ctx context.Context, c *kes.Client) error {
			_, err := c.Status(ctx)
			return err
		}},
		{"APIs", "/v1/api", func(ctx context.Context, c *kes.Client) error {
			_, err := c.APIs(ctx)
			return err
		}},
		{"Metrics", "/v1/metrics", func(ctx context.Context, c *kes.Client) error {
			_, err := c.Metrics(ctx)
			return err
		}},
		{"CreateKey", "/v1/key/create/", func(ctx context.Context, c *kes.Client) error {
			return c.CreateKey(ctx, name)
		}},
		{"ImportKey", "/v1/key/import/", func(ctx context.Context, c *kes.Client) error {
			return c.ImportKey(ctx, name, &kes.ImportKeyRequest{Key: newSecret()})
		}},
		{"DescribeKey", "/v1/key/describe/", func(ctx context.Context, c *kes.Client) error {
			_, err := c.DescribeKey(ctx, name)
			return err
		}},
		{"DeleteKey", "/v1/key/delete/", func(ctx context.Context, c *kes.Client) error {
			return c.DeleteKey(ctx, name)
		}},
		{"GenerateKey", "/v1/key/generate/", func(ctx context.Context, c *kes.Client) error {
			_, err := c.GenerateKey(ctx, name, nil)
			return err
		}},
		{"Encrypt", "/v1/key/encrypt/", func(ctx context.Context, c *kes.Client) error {
			_, err := c.Encrypt(ctx, name, []byte("x"), nil)
			return err
		}},
		{"Decrypt", "/v1/key/decrypt/", func(ctx context.Context, c *kes.Client) error {
			_, err := c.Decrypt(ctx, name, make([]byte, 76), nil)
			return err
		}},
		{"HMAC", "/v1/key/hmac/", func(ctx context.Context, c *kes.Client) error {
			_, err := c.HMAC(ctx, name, []byte("x"))
			return err
		}},
		{"ListKeys", "/v1/key/list", func(ctx context.Context, c *kes.Client) error {
			_, _, err := c.ListKeys(ctx, "", 0)
			return err
		}},
		{"DescribePolicy", "/v1/policy/describe/", func(ctx context.Context, c *kes.Client) error {
			_, err := c.DescribePolicy(ctx, "my-app")
			return err
		}},
		{"GetPolicy", "/v1/policy/read/", func(ctx context.Context, c *kes.Client) error {
			_, err := c.GetPolicy(ctx, "my-app")
			return err
		}},
		{"ListPolicies", "/v1/policy/list", func(ctx context.Context, c *kes.Client) error {
			_, _, err := c.ListPolicies(ctx, "", 0)
			return err
		}},
		{"DescribeIdentity", "/v1/identity/describe/", func(ctx context.Context, c *kes.Client) error {
			_, err := c.DescribeIdentity(ctx, w.adminID)
			return err
		}},
		{"DescribeSelf", "/v1/identity/self/describe", func(ctx context.Context, c *kes.Client) error {
			_, _, err := c.DescribeSelf(ctx)
			return err
		}},
		{"ListIdentities", "/v1/identity/list", func(ctx context.Context, c *kes.Client) error {
			_, _, err := c.ListIdentities(ctx, "", 0)
			return err
		}},
		{"AuditLog", "/v1/log/audit", func(ctx context.Context, c *kes.Client) error {
			stream, err := c.AuditLog(ctx)
			if err != nil {
				return err
			}
			return stream.Close()
		}},
		{"ErrorLog", "/v1/log/error", func(ctx context.Context, c *kes.Client) error {
			stream, err := c.ErrorLog(ctx)
			if err != nil {
				return err
			}
			return stream.Close()
		}},
	}
}

func (w *world) refusalChecks() {
	// Every call but Version and DescribeSelf, which any certificate may make.
	refused := func(ctx context.Context, client *kes.Client, allowed map[string]bool) error {
		var wrong []error
		for _, call := range w.calls() {
			if call.method == "Version" || call.method == "DescribeSelf" || allowed[call.method] {
				continue
			}
			if err := wantError(call.method, call.make(ctx, client), kes.ErrNotAllowed); err != nil {
				wrong = append(wrong, err)
			}
		}
		return errors.Join(wrong...)
	}

	w.check("ErrNotAllowed: a stranger, on every call", func(ctx context.Context) error {
		return refused(ctx, w.stranger, nil)
	})

	w.check("ErrNotAllowed: the app, on every call that its policy does not allow", func(ctx context.Context) error {
		return refused(ctx, w.app, map[string]bool{
			"Status": true, "CreateKey": true, "GenerateKey": true, "Encrypt": true, "Decrypt": true,
		})
	})

	w.check("ErrNotAllowed: the app, on keys outside of its patterns", func(ctx context.Context) error {
		const name = "other"
		_, generateErr := w.app.GenerateKey(ctx, name, nil)
		_, encryptErr := w.app.Encrypt(ctx, name, []byte("x"), nil)
		_, decryptErr := w.app.Decrypt(ctx, name, make([]byte, 76), nil)
		_, _, listErr := w.app.ListKeys(ctx, "my", 0)
		return errors.Join(
			wantError("create", w.app.CreateKey(ctx, name), kes.ErrNotAllowed),
			wantError("generate", generateErr, kes.ErrNotAllowed),
			wantError("encrypt", encryptErr, kes.ErrNotAllowed),
			wantError("decrypt", decryptErr, kes.ErrNotAllowed),
			wantError("list", listErr, kes.ErrNotAllowed),
		)
	})

	w.check("ErrNotAllowed: deny wins over allow", func(ctx context.Context) error {
		name := "my-app-internal" + w.run[len("my-app"):]
		if err := w.app.CreateKey(ctx, name); err != nil {
			return fmt.Errorf("create: %w", err)
		}
		ciphertext, err := w.app.Encrypt(ctx, name, []byte("x"), nil)
		if err != nil {
			return fmt.Errorf("encrypt: %w", err)
		}
		_, generateErr := w.app.GenerateKey(ctx, name, nil)
		_, decryptErr := w.app.Decrypt(ctx, name, ciphertext, nil)
		_, adminErr := w.admin.Decrypt(ctx, name, ciphertext, nil)
		return errors.Join(
			wantError("generate", generateErr, kes.ErrNotAllowed),
			wantError("decrypt", decryptErr, kes.ErrNotAllowed),
			adminErr,
			w.admin.DeleteKey(ctx, name),
		)
	})
}

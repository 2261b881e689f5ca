package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/minio/kms-go/kes"
)

// lister is ListKeys, ListPolicies or ListIdentities.
type lister[T any] func(ctx context.Context, prefix string, n int) ([]T, string, error)

// collect returns all that the SDK's iterator yields from prefix on.
func collect[T any](ctx context.Context, list lister[T], prefix string) ([]T, error) {
	var (
		all  []T
		iter = kes.ListIter[T]{NextFunc: list}
	)
	item, err := iter.SeekTo(ctx, prefix)
	for ; err == nil; item, err = iter.Next(ctx) {
		all = append(all, item)
	}
	if err != io.EOF {
		return nil, err
	}
	return all, nil
}

// difference says how two listings differ, or nothing if they do not.
func difference(got, want []string) error {
	if slices.Equal(got, want) {
		return nil
	}
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return fmt.Errorf("%d names, expected %d; number %d is %q, expected %q", len(got), len(want), i, got[i], want[i])
		}
	}
	return fmt.Errorf("%d names, expected %d", len(got), len(want))
}

func (w *world) listingChecks() {
	prefix := w.run + "-many-"
	want := make([]string, w.many)
	for i := range want {
		want[i] = fmt.Sprintf("%s%06d", prefix, i)
	}

	w.checkFor(fmt.Sprintf("CreateKey: %d keys", w.many), 30*time.Second, func(ctx context.Context) error {
		return w.forEach(want, func(c *kes.Client, name string) error { return c.CreateKey(ctx, name) })
	})

	w.check("ListKeys: iterator over more than one page", func(ctx context.Context) error {
		for who, client := range map[string]*kes.Client{"admin": w.admin, "app": w.app} {
			for _, pattern := range []string{prefix, prefix + "*"} {
				got, err := collect(ctx, client.ListKeys, pattern)
				if err != nil {
					return fmt.Errorf("%s: %q: %w", who, pattern, err)
				}
				if err := difference(got, want); err != nil {
					return fmt.Errorf("%s: %q: %w", who, pattern, err)
				}
			}
		}
		return nil
	})

	w.check("ListKeys: page by page", func(ctx context.Context) error {
		var got []string
		for at, first := prefix, true; first || at != ""; first = false {
			names, next, err := w.admin.ListKeys(ctx, at, 0)
			if err != nil {
				return fmt.Errorf("at %q: %w", at, err)
			}
			if len(names) == 0 || len(names) > pageSize {
				return fmt.Errorf("at %q: a page of %d names", at, len(names))
			}
			got = append(got, names...)
			if next != "" && (len(got) >= len(want) || next != prefix+"*"+want[len(got)]) {
				return fmt.Errorf("after %d names: to be continued at %q", len(got), next)
			}
			at = next
		}
		return difference(got, want)
	})

	w.check("ListKeys: all", func(ctx context.Context) error {
		for _, pattern := range []string{"", "*"} {
			all, err := collect(ctx, w.admin.ListKeys, pattern)
			if err != nil {
				return fmt.Errorf("%q: %w", pattern, err)
			}
			for i := 1; i < len(all); i++ {
				if all[i-1] >= all[i] {
					return fmt.Errorf("%q: %q comes before %q", pattern, all[i-1], all[i])
				}
			}
			mine := slices.DeleteFunc(all, func(name string) bool { return !strings.HasPrefix(name, prefix) })
			if err := difference(mine, want); err != nil {
				return fmt.Errorf("%q: those of this run: %w", pattern, err)
			}
		}
		return nil
	})

	w.check("ListKeys: narrow prefixes", func(ctx context.Context) error {
		for pattern, want := range map[string][]string{
			want[7]:            want[7:8],
			prefix + "00001":   want[10:20],
			prefix + "00001*":  want[10:20],
			prefix + "0010":    want[1000:min(1100, w.many)],
			prefix + "nothing": nil,
		} {
			got, err := collect(ctx, w.app.ListKeys, pattern)
			if err != nil {
				return fmt.Errorf("%q: %w", pattern, err)
			}
			if err := difference(got, want); err != nil {
				return fmt.Errorf("%q: %w", pattern, err)
			}
		}
		return nil
	})

	w.check("ListKeys: invalid patterns are 400", func(ctx context.Context) error {
		for _, pattern := range []string{"-", "a**", "*a.b", "a.b"} {
			want := kes.NewError(400, "listing pattern '"+pattern+"' is empty, too long or is invalid")
			_, _, err := w.admin.ListKeys(ctx, pattern, 0)
			if err := wantError(fmt.Sprintf("%q", pattern), err, want); err != nil {
				return err
			}
		}
		return nil
	})

	// Not the SDK's own doing, but what its iterator relies on: a token is a
	// pattern and the name to go on at.
	w.check("ListKeys: a token continues where it says", func(ctx context.Context) error {
		names, _, err := w.admin.ListKeys(ctx, prefix+"*"+want[3], 0)
		if err != nil {
			return err
		}
		return difference(names[:min(2, len(names))], want[3:5])
	})

	w.checkFor("DeleteKey: all of them", 30*time.Second, func(ctx context.Context) error {
		if err := w.forEach(want, func(c *kes.Client, name string) error { return c.DeleteKey(ctx, name) }); err != nil {
			return err
		}
		left, err := collect(ctx, w.admin.ListKeys, prefix)
		if err != nil {
			return err
		}
		if len(left) > 0 {
			return errors.New("some are still listed")
		}
		return nil
	})
}

// forEach calls f with each name, as the admin, several at a time.
func (w *world) forEach(names []string, f func(*kes.Client, string) error) error {
	const workers = 16
	client, err := w.newPooledClient(w.adminKey, workers)
	if err != nil {
		return err
	}
	return inParallel(workers, len(names), func(i int) error {
		if err := f(client.Client, names[i]); err != nil {
			return fmt.Errorf("%s: %w", names[i], err)
		}
		return nil
	})
}

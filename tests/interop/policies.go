package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/minio/kms-go/kes"
)

// appPolicy is the policy my-app that the server must be configured with.
var appPolicy = kes.Policy{
	Allow: map[string]kes.Rule{
		"/v1/key/create/my-app*":   {},
		"/v1/key/generate/my-app*": {},
		"/v1/key/encrypt/my-app*":  {},
		"/v1/key/decrypt/my-app*":  {},
		"/v1/key/list/my-app*":     {},
		"/v1/status":               {},
	},
	Deny: map[string]kes.Rule{
		"/v1/key/generate/my-app-internal*": {},
		"/v1/key/decrypt/my-app-internal*":  {},
	},
}

func samePolicy(got *kes.Policy, want kes.Policy) error {
	if !maps.Equal(got.Allow, want.Allow) {
		return fmt.Errorf("allow is %v, expected %v", got.Allow, want.Allow)
	}
	if !maps.Equal(got.Deny, want.Deny) {
		return fmt.Errorf("deny is %v, expected %v", got.Deny, want.Deny)
	}
	return nil
}

func (w *world) policyChecks() {
	w.check("DescribePolicy", func(ctx context.Context) error {
		for _, name := range []string{"my-app", "empty", "ops"} {
			info, err := w.admin.DescribePolicy(ctx, name)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if info.Name != name || info.CreatedBy != w.adminID {
				return fmt.Errorf("%s: name %q, created by %v", name, info.Name, info.CreatedBy)
			}
			if err := past("creation time", info.CreatedAt); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return nil
	})

	w.check("GetPolicy", func(ctx context.Context) error {
		for name, want := range map[string]kes.Policy{"my-app": appPolicy, "empty": {}} {
			policy, err := w.admin.GetPolicy(ctx, name)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if err := samePolicy(policy, want); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if policy.CreatedBy != w.adminID {
				return fmt.Errorf("%s: created by %v, expected the admin", name, policy.CreatedBy)
			}
			if err := past("creation time", policy.CreatedAt); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return nil
	})

	w.check("DescribePolicy, GetPolicy: ErrPolicyNotFound", func(ctx context.Context) error {
		_, describeErr := w.admin.DescribePolicy(ctx, "nope")
		_, getErr := w.admin.GetPolicy(ctx, "nope")
		return errors.Join(
			wantError("describe", describeErr, kes.ErrPolicyNotFound),
			wantError("get", getErr, kes.ErrPolicyNotFound),
		)
	})

	w.check("ListPolicies", func(ctx context.Context) error {
		for prefix, want := range map[string][]string{
			"":    {"empty", "my-app", "ops"},
			"*":   {"empty", "my-app", "ops"},
			"my":  {"my-app"},
			"my-": {"my-app"},
			"my*": {"my-app"},
			"zzz": {},
		} {
			names, next, err := w.admin.ListPolicies(ctx, prefix, 0)
			if err != nil {
				return fmt.Errorf("%q: %w", prefix, err)
			}
			if !slices.Equal(names, want) || next != "" {
				return fmt.Errorf("%q: %q, to be continued at %q, expected %q", prefix, names, next, want)
			}
			iterated, err := collect(ctx, w.admin.ListPolicies, prefix)
			if err != nil {
				return fmt.Errorf("%q: iterator: %w", prefix, err)
			}
			if !slices.Equal(iterated, want) {
				return fmt.Errorf("%q: iterator: %q, expected %q", prefix, iterated, want)
			}
		}
		return nil
	})
}

func (w *world) identityChecks() {
	w.check("DescribeIdentity", func(ctx context.Context) error {
		admin, err := w.admin.DescribeIdentity(ctx, w.adminID)
		if err != nil {
			return fmt.Errorf("admin: %w", err)
		}
		if !admin.IsAdmin || admin.Policy != "" || admin.Identity != w.adminID {
			return fmt.Errorf("admin: %+v", *admin)
		}
		app, err := w.admin.DescribeIdentity(ctx, w.appID)
		if err != nil {
			return fmt.Errorf("app: %w", err)
		}
		if app.IsAdmin || app.Policy != "my-app" || app.Identity != w.appID || app.CreatedBy != w.adminID {
			return fmt.Errorf("app: %+v", *app)
		}
		return errors.Join(past("admin's creation time", admin.CreatedAt), past("app's creation time", app.CreatedAt))
	})

	w.check("DescribeIdentity: ErrIdentityNotFound", func(ctx context.Context) error {
		_, strangerErr := w.admin.DescribeIdentity(ctx, w.strangerID)
		_, zeroErr := w.admin.DescribeIdentity(ctx, kes.Identity(strings.Repeat("0", 64)))
		return errors.Join(
			wantError("stranger", strangerErr, kes.ErrIdentityNotFound),
			wantError("zeros", zeroErr, kes.ErrIdentityNotFound),
		)
	})

	w.check("DescribeSelf: admin", func(ctx context.Context) error {
		info, policy, err := w.admin.DescribeSelf(ctx)
		if err != nil {
			return err
		}
		if info.Identity != w.adminID || !info.IsAdmin || info.Policy != "" {
			return fmt.Errorf("%+v", *info)
		}
		return errors.Join(samePolicy(policy, kes.Policy{}), past("creation time", info.CreatedAt))
	})

	w.check("DescribeSelf: app, with its policy", func(ctx context.Context) error {
		info, policy, err := w.app.DescribeSelf(ctx)
		if err != nil {
			return err
		}
		if info.Identity != w.appID || info.IsAdmin || info.Policy != "my-app" || info.CreatedBy != w.adminID {
			return fmt.Errorf("%+v", *info)
		}
		return errors.Join(samePolicy(policy, appPolicy), past("creation time", info.CreatedAt))
	})

	w.check("DescribeSelf: stranger: ErrIdentityNotFound", func(ctx context.Context) error {
		_, _, err := w.stranger.DescribeSelf(ctx)
		return wantError("self", err, kes.ErrIdentityNotFound)
	})

	w.check("ListIdentities", func(ctx context.Context) error {
		all, next, err := w.admin.ListIdentities(ctx, "", 0)
		if err != nil {
			return err
		}
		if next != "" || !slices.IsSorted(all) {
			return fmt.Errorf("%v, to be continued at %q, expected one sorted page", all, next)
		}
		if !slices.Contains(all, w.adminID) || !slices.Contains(all, w.appID) || slices.Contains(all, w.strangerID) {
			return fmt.Errorf("%v, expected admin and app among them, and not the stranger", all)
		}
		for prefix, want := range map[string][]kes.Identity{
			"*":                            all,
			w.adminID.String()[:10]:        {w.adminID},
			w.appID.String()[:10] + "*":    {w.appID},
			w.appID.String():               {w.appID},
			w.strangerID.String()[:10]:     {},
			w.adminID.String()[:10] + "zz": {},
		} {
			got, err := collect(ctx, w.admin.ListIdentities, prefix)
			if err != nil {
				return fmt.Errorf("%q: %w", prefix, err)
			}
			if !slices.Equal(got, want) {
				return fmt.Errorf("%q: %v, expected %v", prefix, got, want)
			}
		}
		return nil
	})
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/minio/kms-go/kes"
)

// families are the metrics with their types.
var families = map[string]string{
	"kes_http_request_success":    "counter",
	"kes_http_request_error":      "counter",
	"kes_http_request_failure":    "counter",
	"kes_http_request_active":     "gauge",
	"kes_http_response_time":      "histogram",
	"kes_log_error_events":        "counter",
	"kes_log_audit_events":        "counter",
	"kes_system_up_time":          "gauge",
	"kes_system_num_cpu":          "gauge",
	"kes_system_num_cpu_used":     "gauge",
	"kes_system_num_threads":      "gauge",
	"kes_system_mem_heap_used":    "gauge",
	"kes_system_mem_heap_objects": "gauge",
	"kes_system_mem_stack_used":   "gauge",
}

// unsampled are the families that a server leaves out until they have a sample:
// they have a label, and the SDK fails on a family without samples.
var unsampled = map[string]bool{
	"kes_http_request_success": true,
	"kes_http_request_error":   true,
	"kes_http_request_failure": true,
}

// buckets are the upper bounds of kes_http_response_time, in milliseconds.
var buckets = []int{10, 50, 100, 250, 500, 1000, 1500, 3000, 5000, 10000}

func (w *world) metricChecks() {
	// The SDK passes over a family that it does not find under its name and
	// type, and its zero looks like a count; hence a look at the text as well.
	w.check("Metrics: every family has its type", func(ctx context.Context) error {
		text, err := w.metricsText(ctx)
		if err != nil {
			return err
		}
		types := map[string]string{}
		for line := range strings.Lines(text) {
			if fields := strings.Fields(line); len(fields) == 4 && fields[0] == "#" && fields[1] == "TYPE" {
				types[fields[2]] = fields[3]
			}
		}
		var wrong []error
		for name, want := range families {
			if _, sent := types[name]; !sent && unsampled[name] {
				continue
			}
			if types[name] != want {
				wrong = append(wrong, fmt.Errorf("%s has type %q, expected %q", name, types[name], want))
			}
		}
		return errors.Join(wrong...)
	})

	w.check("Metrics: gauges", func(ctx context.Context) error {
		// The uptime may be in whole seconds, so the first one has to pass.
		return eventually(ctx, 3*time.Second, func() error {
			m, err := w.admin.Metrics(ctx)
			if err != nil {
				return err
			}
			return saneGauges(m)
		})
	})

	w.check("Metrics grow by what was done", func(ctx context.Context) error {
		name := w.run + "-metrics"
		if err := w.admin.CreateKey(ctx, name); err != nil {
			return err
		}
		before, err := w.admin.Metrics(ctx)
		if err != nil {
			return err
		}
		if err := w.work(ctx, name); err != nil {
			return err
		}
		return eventually(ctx, 2*time.Second, func() error {
			after, err := w.admin.Metrics(ctx)
			if err != nil {
				return err
			}
			return grown(before, after)
		})
	})
}

// What work does.
const (
	workSuccesses = 5 // 200
	workErrors    = 7 // 4xx
	workFailures  = 1 // 5xx, which is an error event too
	workRequests  = workSuccesses + workErrors + workFailures
)

// work makes requests with known outcomes.
func (w *world) work(ctx context.Context, name string) error {
	for range workSuccesses {
		if _, err := w.app.GenerateKey(ctx, name, nil); err != nil {
			return err
		}
	}
	for range 4 {
		_, err := w.app.Decrypt(ctx, name, make([]byte, 76), nil)
		if err := wantError("decrypt", err, kes.ErrDecrypt); err != nil {
			return err
		}
	}
	for range 3 {
		_, err := w.app.GenerateKey(ctx, missing, nil)
		if err := wantError("generate", err, kes.ErrKeyNotFound); err != nil {
			return err
		}
	}
	return w.useCorruptKey(ctx)
}

func grown(before, after kes.Metric) error {
	// The last bucket takes every response of less than ten seconds.
	last := time.Duration(buckets[len(buckets)-1]) * time.Millisecond

	var wrong []error
	for _, c := range []struct {
		name          string
		before, after uint64
		growth        uint64
		otherCallsToo bool // the log also has events of calls like Metrics
	}{
		{"successes", before.RequestOK, after.RequestOK, workSuccesses, false},
		{"errors", before.RequestErr, after.RequestErr, workErrors, false},
		{"failures", before.RequestFail, after.RequestFail, workFailures, false},
		{"requests", before.RequestN(), after.RequestN(), workRequests, false},
		{"responses under 10 s", before.LatencyHistogram[last], after.LatencyHistogram[last], workRequests, false},
		{"audit events", before.AuditEvents, after.AuditEvents, workRequests, true},
		{"error events", before.ErrorEvents, after.ErrorEvents, workFailures, true},
	} {
		growth := c.after - c.before
		if growth != c.growth && !(c.otherCallsToo && growth > c.growth && c.after > c.before) {
			wrong = append(wrong, fmt.Errorf("%s went from %d to %d, expected %d more", c.name, c.before, c.after, c.growth))
		}
	}
	return errors.Join(wrong...)
}

func saneGauges(m kes.Metric) error {
	var wrong []error
	for _, c := range []struct {
		name string
		ok   bool
	}{
		{"uptime", m.UpTime > 0},
		{"CPUs", m.CPUs >= 1},
		{"usable CPUs", m.UsableCPUs >= 1 && m.UsableCPUs <= m.CPUs},
		{"threads", m.Threads >= 1},
		{"heap", m.HeapAlloc > 0},
		{"heap objects", m.HeapObjects > 0},
		{"stack", m.StackAlloc > 0},
		{"active requests", m.RequestActive < 10},
		{"number of buckets", len(m.LatencyHistogram) == len(buckets)},
	} {
		if !c.ok {
			wrong = append(wrong, errors.New(c.name))
		}
	}
	var count uint64
	for _, bound := range buckets {
		next, ok := m.LatencyHistogram[time.Duration(bound)*time.Millisecond]
		if !ok || next < count {
			wrong = append(wrong, fmt.Errorf("bucket of %d ms", bound))
		}
		count = next
	}
	if count == 0 {
		wrong = append(wrong, errors.New("empty histogram"))
	}
	if len(wrong) > 0 {
		return fmt.Errorf("not sane: %w in %+v", errors.Join(wrong...), m)
	}
	return nil
}

// metricsText returns the metrics as the server sent them.
func (w *world) metricsText(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.server+"/v1/metrics", nil)
	if err != nil {
		return "", err
	}
	resp, err := w.admin.HTTPClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("status %d", resp.StatusCode)
	}
	return string(text), nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/minio/kms-go/kes"
)

// checkTimeout is how long one check may take unless it says otherwise.
const checkTimeout = 15 * time.Second

// suite runs checks one after the other, prints their outcome and counts them.
type suite struct {
	without map[string]bool // names of checks to leave out; true once that was done

	mu      sync.Mutex // the watchdog prints too
	current string
	passed  int
	failed  int
}

// newSuite starts a watchdog that ends the program after limit, whatever hangs.
func newSuite(limit time.Duration, without map[string]bool) *suite {
	s := &suite{without: without, current: "start"}
	time.AfterFunc(limit, func() {
		s.mu.Lock()
		fmt.Printf("FAIL %s: the whole run took longer than %v\n", s.current, limit)
		os.Exit(1)
	})
	return s
}

// check runs f; an error or a panic fails the check, and the run goes on.
func (s *suite) check(name string, f func(context.Context) error) {
	s.checkFor(name, checkTimeout, f)
}

// checkFor is check with a time limit of its own.
func (s *suite) checkFor(name string, limit time.Duration, f func(context.Context) error) {
	if _, out := s.without[name]; out {
		s.without[name] = true
		return
	}
	s.mu.Lock()
	s.current = name
	s.mu.Unlock()

	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	err := guard(ctx, f)

	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.failed++
		fmt.Printf("FAIL %s: %s\n", name, strings.ReplaceAll(err.Error(), "\n", "; "))
		return
	}
	s.passed++
	fmt.Printf("ok %s\n", name)
}

func guard(ctx context.Context, f func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return f(ctx)
}

// finish prints the tally and ends the program.
func (s *suite) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, left := range s.without {
		if !left {
			s.failed++
			fmt.Printf("FAIL -without %q: there is no such check\n", name)
		}
	}
	if s.failed > 0 {
		fmt.Printf("%d checks passed, %d failed\n", s.passed, s.failed)
		os.Exit(1)
	}
	fmt.Printf("%d checks passed\n", s.passed)
	os.Exit(0)
}

// wantError returns nil if err is the SDK's error value want, by == as well as
// by errors.Is: callers use both.
func wantError(what string, err, want error) error {
	switch {
	case err == nil:
		return fmt.Errorf("%s: no error, expected %q", what, want)
	case err != want || !errors.Is(err, want):
		return fmt.Errorf("%s: %v (status %d), expected %q", what, err, statusOf(err), want)
	}
	return nil
}

// wantStatus returns nil if err is an API error with this status.
func wantStatus(what string, err error, status int) error {
	if got := statusOf(err); got != status {
		return fmt.Errorf("%s: %v (status %d), expected status %d", what, err, got, status)
	}
	return nil
}

// statusOf returns the HTTP status that a call's error stands for: 200 for no
// error, 0 for one that the server did not send.
func statusOf(err error) int {
	if err == nil {
		return 200
	}
	var apiErr kes.Error
	if errors.As(err, &apiErr) {
		return apiErr.Status()
	}
	return 0
}

// eventually calls f until it returns nil, and returns its last error when
// that takes longer than limit.
func eventually(ctx context.Context, limit time.Duration, f func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := f()
		if err == nil || time.Now().After(deadline) || ctx.Err() != nil {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// recent returns nil if t is a time of this minute or so.
func recent(what string, t time.Time) error {
	if age := time.Since(t).Abs(); age > time.Minute {
		return fmt.Errorf("%s is %v, expected about now", what, t)
	}
	return nil
}

// past returns nil if t is set and not in the future.
func past(what string, t time.Time) error {
	if t.IsZero() || time.Until(t) > 5*time.Second {
		return fmt.Errorf("%s is %v, expected a time in the past", what, t)
	}
	return nil
}

// inParallel runs f(0) to f(n-1) in so many goroutines, stops handing out work
// at the first error, and returns that.
func inParallel(workers, n int, f func(int) error) error {
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		next  int
		first error
	)
	take := func() (int, bool) {
		mu.Lock()
		defer mu.Unlock()
		if first != nil || next == n {
			return 0, false
		}
		next++
		return next - 1, true
	}
	for range workers {
		wg.Go(func() {
			for i, ok := take(); ok; i, ok = take() {
				if err := f(i); err != nil {
					mu.Lock()
					if first == nil {
						first = err
					}
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return first
}

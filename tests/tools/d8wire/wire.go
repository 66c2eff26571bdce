package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// target is the registry under test and who signs in to it.
type target struct {
	registry, caFile, writer, reader string
}

// session is one signed-in client with the requests it has made so far.
type session struct {
	target
	wire *wire
	auth authn.Authenticator
}

func (t target) session(credentials string) (*session, error) {
	user, password, ok := strings.Cut(credentials, ":")
	if !ok {
		return nil, errors.New("credentials are not USER:PASSWORD")
	}
	pem, err := os.ReadFile(t.caFile)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("no certificate in %s", t.caFile)
	}
	inner := remote.DefaultTransport.(*http.Transport).Clone()
	inner.TLSClientConfig = &tls.Config{RootCAs: roots}
	return &session{
		target: t,
		wire:   &wire{inner: inner},
		auth:   &authn.Basic{Username: user, Password: password},
	}, nil
}

// options are those of d8: four layers at once, no retries by the library here so that each
// failure is seen.
func (s *session) options() []remote.Option {
	return []remote.Option{
		remote.WithTransport(s.wire),
		remote.WithAuth(s.auth),
		remote.WithJobs(4),
		remote.WithRetryBackoff(remote.Backoff{Steps: 1, Duration: time.Millisecond}),
	}
}

func (s *session) tag(repository, tag string) (name.Tag, error) {
	return name.NewTag(fmt.Sprintf("%s/%s:%s", s.registry, repository, tag))
}

// wire is a transport that writes down what passes.
type wire struct {
	inner http.RoundTripper
	mutex sync.Mutex
	seen  []exchange
}

// exchange is one request of the registry API with its answer; the check of /v2/ and the token
// are left out of it.
type exchange struct {
	kind   string // for example "PATCH upload"
	digest string
	status int
	header http.Header
}

func (e exchange) String() string { return fmt.Sprintf("%s %s = %d", e.kind, e.digest, e.status) }

var (
	uploadPath   = regexp.MustCompile(`^/v2/.+/blobs/uploads/`)
	blobPath     = regexp.MustCompile(`^/v2/.+/blobs/([^/]+)$`)
	manifestPath = regexp.MustCompile(`^/v2/.+/manifests/([^/]+)$`)
	referrerPath = regexp.MustCompile(`^/v2/.+/referrers/([^/]+)$`)
)

func (w *wire) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := w.inner.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	path := request.URL.Path
	seen := exchange{status: response.StatusCode, header: response.Header.Clone()}
	switch {
	case uploadPath.MatchString(path):
		seen.kind, seen.digest = "upload", request.URL.Query().Get("digest")
	case blobPath.MatchString(path):
		seen.kind, seen.digest = "blob", blobPath.FindStringSubmatch(path)[1]
	case manifestPath.MatchString(path):
		seen.kind, seen.digest = "manifest", manifestPath.FindStringSubmatch(path)[1]
	case referrerPath.MatchString(path):
		seen.kind, seen.digest = "referrers", referrerPath.FindStringSubmatch(path)[1]
	default:
		return response, nil
	}
	seen.kind = request.Method + " " + seen.kind
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.seen = append(w.seen, seen)
	return response, nil
}

// take returns what passed since the last call.
func (w *wire) take() []exchange {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	seen := w.seen
	w.seen = nil
	return seen
}

// await returns what passed up to the first request of that kind, or an error after ten seconds.
func (w *wire) await(kind string) ([]exchange, error) {
	deadline := time.Now().Add(10 * time.Second)
	var all []exchange
	for time.Now().Before(deadline) {
		for _, seen := range w.take() {
			all = append(all, seen)
			if seen.kind == kind {
				return all, nil
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	return all, fmt.Errorf("no %s within ten seconds, only %v", kind, all)
}

// count says how many exchanges were of that kind and ended with that status.
func count(seen []exchange, kind string, status int) int {
	n := 0
	for _, one := range seen {
		if one.kind == kind && one.status == status {
			n++
		}
	}
	return n
}

// only checks that seen has exactly these exchanges, in whatever order.
func only(seen []exchange, want map[string]int) error {
	got := map[string]int{}
	for _, one := range seen {
		got[fmt.Sprintf("%s %d", one.kind, one.status)]++
	}
	for key, n := range want {
		if got[key] != n {
			return fmt.Errorf("%d of %q on the wire, want %d: %v", got[key], key, n, seen)
		}
	}
	for key, n := range got {
		if want[key] != n {
			return fmt.Errorf("%d of %q on the wire, want %d: %v", n, key, want[key], seen)
		}
	}
	return nil
}

// keychain answers with one and the same sign-in for every registry.
type keychain struct{ authn.Authenticator }

func (k keychain) Resolve(authn.Resource) (authn.Authenticator, error) { return k.Authenticator, nil }

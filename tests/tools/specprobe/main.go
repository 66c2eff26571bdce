// Specprobe asks a registry what the OCI distribution-spec demands of it, over the wire, and writes
// a junit.xml. It is written from the text of the specification: version 1.1.1, and for the `tag`
// parameter of a manifest push its main branch.
//
//	OCI_REGISTRY=HOST:PORT OCI_REPO1=NAME OCI_REPO2=NAME OCI_RESULTS_DIR=FOLDER specprobe
//
// It reads the variables of the specification's own conformance program, as far as they apply:
//
//	OCI_USERNAME, OCI_PASSWORD   who signs in, with the right to push and delete
//	OCI_DATA_SPARSE=true         manifests with missing references have to be taken
//	OCI_API_PUSH=false           nothing is pushed; only what the last four name is asked for
//	OCI_API_MANIFESTS_DELETE=false   and nothing can be deleted either
//	OCI_RO_DATA_TAGS, OCI_RO_DATA_MANIFESTS, OCI_RO_DATA_BLOBS, OCI_RO_DATA_REFERRERS
//
// With PROBE_KEEP=FILE one set of data stays in OCI_REPO1, and FILE tells it to a shell as these four.
// GODEBUG=http2client=0 makes every request one of HTTP/1.1. A registry is reached by TLS only.
//
// It ends with status 1 if a case failed. A case that checked nothing has failed.
package main

import (
	"fmt"
	"os"
	"strings"
)

// probe is the registry under test, as far as every case needs it.
type probe struct {
	wire   *wire
	base   string // https://HOST:PORT
	repo   string // the repository under test
	other  string // blobs are mounted from here
	sparse bool
	trials []*trial
	// Codes of errors that the specification does not have.
	foreignCodes map[string]bool
}

func main() {
	p := &probe{
		wire:   newWire(os.Getenv("OCI_USERNAME"), os.Getenv("OCI_PASSWORD")),
		base:   "https://" + os.Getenv("OCI_REGISTRY"),
		repo:   os.Getenv("OCI_REPO1"),
		other:  os.Getenv("OCI_REPO2"),
		sparse: os.Getenv("OCI_DATA_SPARSE") == "true",

		foreignCodes: map[string]bool{},
	}
	results := os.Getenv("OCI_RESULTS_DIR")
	if os.Getenv("OCI_REGISTRY") == "" || p.repo == "" || results == "" {
		fmt.Fprintln(os.Stderr, "OCI_REGISTRY, OCI_REPO1 and OCI_RESULTS_DIR have to be set")
		os.Exit(2)
	}

	p.run("ping", "Determining Support", func(t *trial) {
		t.want(t.ask("GET", p.base+"/v2/"), "GET /v2/", 200)
	})
	p.run("ping without credentials", "Determining Support; RFC 9110 section 11.6.1", func(t *trial) {
		a := (&wire{client: p.wire.client}).once("GET", p.base+"/v2/", nil, false, nil, "")
		t.want(a, "GET /v2/", 200, 401)
		t.check(a.status != 401 || a.header.Get("WWW-Authenticate") != "", "401 without WWW-Authenticate")
	})
	p.missingThings()
	if os.Getenv("OCI_API_PUSH") == "false" {
		p.readOnly()
	} else {
		p.emptyRepository()
		for _, algorithm := range []string{"sha256", "sha512"} {
			p.blobCases(algorithm)
		}
		for _, s := range dataSets(p.sparse) {
			p.manifestCases(s)
		}
		p.tagCases()
		p.refusedPushes()
		if file := os.Getenv("PROBE_KEEP"); file != "" {
			p.keep(file)
		}
	}

	p.codesSeen()

	counts, err := p.report(results)
	if err != nil {
		fmt.Fprintln(os.Stderr, "no report:", err)
		os.Exit(2)
	}
	fmt.Println(counts)
	if counts.failed > 0 {
		os.Exit(1)
	}
}

// at is the address of something in the repository under test.
func (p *probe) at(kind, reference string) string { return p.in(p.repo, kind, reference) }

func (p *probe) in(repo, kind, reference string) string {
	return strings.Join([]string{p.base, "v2", repo, kind, reference}, "/")
}

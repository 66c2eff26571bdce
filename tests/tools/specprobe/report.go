package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	passed  = "passed"
	failed  = "failure"
	skipped = "skipped"
)

// trial is one case and what came of it.
type trial struct {
	*probe
	name    string
	section string // of the specification, or what else demands it
	status  string
	asked   int // checks made
	faults  []string
}

// run checks one case. The section tells the reader of a failure where to look.
func (p *probe) run(name, section string, f func(*trial)) {
	t := &trial{probe: p, name: "spec/" + name, section: section, status: passed}
	p.trials = append(p.trials, t)
	f(t)
	switch {
	case len(t.faults) > 0 && t.status != skipped:
		t.status = failed
	case t.asked == 0:
		t.status = failed
		t.faults = append(t.faults, "nothing was checked")
	}
}

func (t *trial) check(holds bool, format string, args ...any) bool {
	t.asked++
	if !holds {
		t.faults = append(t.faults, fmt.Sprintf(format, args...))
	}
	return holds
}

// skip is for what the specification leaves to the registry.
func (t *trial) skip(format string, args ...any) {
	t.asked++
	t.status = skipped
	t.faults = append(t.faults, fmt.Sprintf(format, args...))
}

// want checks the status of an answer, and of an error the body too.
func (t *trial) want(a *answer, what string, status ...int) bool {
	if a.status >= 400 && a.method != "HEAD" {
		t.errorBody(a, what)
	}
	return t.check(slices.Contains(status, a.status), "%s: want %v, got %s", what, status, a)
}

// knownCodes are those of section Error Codes.
var knownCodes = []string{
	"BLOB_UNKNOWN", "BLOB_UPLOAD_INVALID", "BLOB_UPLOAD_UNKNOWN", "DIGEST_INVALID", "MANIFEST_BLOB_UNKNOWN",
	"MANIFEST_INVALID", "MANIFEST_UNKNOWN", "NAME_INVALID", "NAME_UNKNOWN", "SIZE_INVALID", "UNAUTHORIZED",
	"DENIED", "UNSUPPORTED", "TOOMANYREQUESTS",
}

// legacyCodes are those that section Legacy Docker support error codes names, and
// codesOfDocker those that Docker's description of the protocol has for cases that the specification has no code for.
var (
	legacyCodes   = []string{"TAG_INVALID", "MANIFEST_UNVERIFIED"}
	codesOfDocker = []string{"RANGE_INVALID", "PAGINATION_NUMBER_INVALID"}
)

// errorBody holds an error in JSON to section Error Codes.
func (t *trial) errorBody(a *answer, what string) {
	isJSON := strings.Contains(a.header.Get("Content-Type"), "json") || bytes.HasPrefix(a.body, []byte("{"))
	if a.status >= 500 || !isJSON {
		return
	}
	codes := a.codes()
	t.check(len(codes) > 0, "%s: no list of errors: %s", what, a)
	for _, code := range codes {
		if slices.Contains(codesOfDocker, code) {
			t.foreignCodes[code] = true
			continue
		}
		t.check(slices.Contains(knownCodes, code) || slices.Contains(legacyCodes, code),
			"%s: code %q is not of the specification: %s", what, code, a)
	}
}

// codesSeen comes after all other cases.
func (p *probe) codesSeen() {
	p.run("errors/codes", "Error Codes", func(t *trial) {
		a := t.ask("GET", with(p.at("tags", "list"), "n", "many"))
		t.want(a, "tags/list?n=many", 400)
		if len(p.foreignCodes) > 0 && len(t.faults) == 0 {
			t.skip("codes of Docker's: %v", slices.Sorted(maps.Keys(p.foreignCodes)))
		}
	})
}

// codes are the codes of an error; empty where the body has another form.
func (a *answer) codes() []string {
	var body struct {
		Errors []struct {
			Code string `json:"code"`
		} `json:"errors"`
	}
	if json.Unmarshal(a.body, &body) != nil {
		return nil
	}
	var codes []string
	for _, one := range body.Errors {
		codes = append(codes, one.Code)
	}
	return codes
}

// hasHeader checks that one of the header's values is this.
func (t *trial) hasHeader(a *answer, what, key, value string) {
	t.check(slices.Contains(a.header.Values(key), value), "%s: header %s: want %q, got %q", what, key, value, a.header.Values(key))
}

type tally struct {
	passed, failed, skipped int
	protocols               map[string]int
}

func (c tally) String() string {
	return fmt.Sprintf("%d passed, %d failed, %d skipped; requests: %v", c.passed, c.failed, c.skipped, c.protocols)
}

type xmlCase struct {
	Name   string `xml:"name,attr"`
	Status string `xml:"status,attr"`
	Output string `xml:"system-out,omitempty"`
}

type xmlSuite struct {
	Name     string    `xml:"name,attr"`
	Tests    int       `xml:"tests,attr"`
	Failures int       `xml:"failures,attr"`
	Errors   int       `xml:"errors,attr"`
	Skipped  int       `xml:"skipped,attr"`
	Cases    []xmlCase `xml:"testcase"`
}

// report writes junit.xml into the folder, and to the output what did not pass.
func (p *probe) report(folder string) (tally, error) {
	counts := tally{protocols: p.wire.protocols}
	suite := xmlSuite{Name: "specprobe", Tests: len(p.trials)}
	for _, t := range p.trials {
		output := strings.Join(t.faults, "\n")
		switch t.status {
		case passed:
			counts.passed++
		case skipped:
			counts.skipped++
		default:
			counts.failed++
			output = "section " + t.section + ":\n" + output
		}
		suite.Cases = append(suite.Cases, xmlCase{t.name, t.status, output})
		if t.status != passed {
			fmt.Printf("%s %s\n    %s\n", t.status, t.name, strings.ReplaceAll(output, "\n", "\n    "))
		}
	}
	suite.Failures, suite.Skipped = counts.failed, counts.skipped
	content, err := xml.MarshalIndent(struct {
		XMLName xml.Name   `xml:"testsuites"`
		Suites  []xmlSuite `xml:"testsuite"`
	}{Suites: []xmlSuite{suite}}, "", "  ")
	if err != nil {
		return counts, err
	}
	return counts, os.WriteFile(filepath.Join(folder, "junit.xml"), content, 0o644)
}

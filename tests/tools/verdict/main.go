// Verdict reads the junit.xml of the OCI conformance program and checks it.
//
//	verdict JUNIT.XML EXPECTED-SKIPS RUN [switched-off]
//
// With `switched-off` it is a run of less than everything, as the read-only one is: tests that are
// disabled or skipped are counted and no more.
// It ends with status 1 if a test failed, had an error or was disabled, if no test passed, or if a
// test was skipped that the file EXPECTED-SKIPS does not name. A line of that file is
//
//	RUN <tab> NAME OF THE TEST <tab> REASON
//
// where RUN may be `*`. Each skip is printed with its reason. A line that no skip matches any more
// is an error too, so that the list stays true; lines with `*` are exempt.
package main

import (
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"strings"
)

type report struct {
	Suites []struct {
		Tests    int        `xml:"tests,attr"`
		Failures int        `xml:"failures,attr"`
		Errors   int        `xml:"errors,attr"`
		Disabled int        `xml:"disabled,attr"`
		Skipped  int        `xml:"skipped,attr"`
		Cases    []testcase `xml:"testcase"`
	} `xml:"testsuite"`
}

type testcase struct {
	Name   string `xml:"name,attr"`
	Status string `xml:"status,attr"`
	Output string `xml:"system-out"`
}

// expected holds, by name of a skipped test, the reason why that is right.
type expected map[string]string

func main() {
	part := len(os.Args) == 5 && os.Args[4] == "switched-off"
	if len(os.Args) != 4 && !part {
		fmt.Fprintln(os.Stderr, "usage: verdict JUNIT.XML EXPECTED-SKIPS RUN [switched-off]")
		os.Exit(2)
	}
	if err := check(os.Args[1], os.Args[2], os.Args[3], part); err != nil {
		fmt.Fprintln(os.Stderr, "FAIL", os.Args[3]+":", err)
		os.Exit(1)
	}
}

func check(junit, skips, run string, part bool) error {
	content, err := os.ReadFile(junit)
	if err != nil {
		return err
	}
	var all report
	if err := xml.Unmarshal(content, &all); err != nil {
		return fmt.Errorf("%s: %w", junit, err)
	}
	always, once, err := readSkips(skips, run)
	if err != nil {
		return err
	}

	var faults []string
	passed, skipped, disabled, failed := 0, 0, 0, 0
	for _, suite := range all.Suites {
		if suite.Failures+suite.Errors > 0 || suite.Disabled > 0 && !part {
			faults = append(faults, fmt.Sprintf("the report counts %d failures, %d errors, %d disabled",
				suite.Failures, suite.Errors, suite.Disabled))
		}
		for _, one := range suite.Cases {
			switch one.Status {
			case "passed":
				passed++
			case "skipped":
				skipped++
				reason, known := once[one.Name]
				delete(once, one.Name)
				if !known {
					reason, known = always[one.Name]
				}
				switch {
				case part:
					continue
				case !known:
					faults = append(faults, fmt.Sprintf("skipped and not expected: %s: %s", one.Name, one.Output))
				}
				fmt.Printf("skip %s: %s\n", one.Name, reason)
			case "disabled":
				disabled++
				if !part {
					faults = append(faults, fmt.Sprintf("disabled: %s: %s", one.Name, one.Output))
				}
			default:
				failed++
				faults = append(faults, fmt.Sprintf("%s: %s: %s", one.Status, one.Name, one.Output))
			}
		}
	}
	fmt.Printf("%s: %d passed, %d failed, %d disabled, %d skipped\n", run, passed, failed, disabled, skipped)
	for name := range once {
		faults = append(faults, "not skipped any more, take it out of the list: "+name)
	}
	if passed == 0 {
		faults = append(faults, "no test passed")
	}
	if len(faults) > 0 {
		return errors.New(strings.Join(faults, "\n  "))
	}
	return nil
}

// readSkips returns what is expected in every run, and what is expected in this one.
func readSkips(path, run string) (always, once expected, err error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	always, once = expected{}, expected{}
	for number, line := range strings.Split(string(content), "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Split(line, "\t")
		if len(fields) != 3 || fields[2] == "" {
			return nil, nil, fmt.Errorf("%s:%d: want RUN, NAME, REASON with tabs between", path, number+1)
		}
		switch fields[0] {
		case "*":
			always[fields[1]] = fields[2]
		case run:
			once[fields[1]] = fields[2]
		}
	}
	return always, once, nil
}

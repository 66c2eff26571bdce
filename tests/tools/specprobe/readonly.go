package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// emptyRepository asks a repository that nothing was pushed to.
func (p *probe) emptyRepository() {
	p.run("empty/tags", "Listing Tags; Pushing Manifests (a nonexistent repository)", func(t *trial) {
		a := t.ask("GET", p.at("tags", "list"))
		if t.want(a, "tags/list", 200, 404) && a.status == 200 {
			t.check(len(t.tags(nil)) == 0, "has tags: %s", a)
		}
	})
}

// missingThings asks for what no repository has.
func (p *probe) missingThings() {
	p.run("missing/manifest", "Pulling manifests", func(t *trial) {
		for _, algorithm := range []string{"sha256", "sha512"} {
			t.manifestMissing(digestOf(algorithm, random(9)))
		}
		t.manifestMissing(fmt.Sprintf("missing-%x", random(8)))
	})
	p.run("missing/blob", "Pulling blobs", func(t *trial) {
		for _, algorithm := range []string{"sha256", "sha512"} {
			t.blobMissing(p.repo, digestOf(algorithm, random(9)))
		}
	})
	p.run("missing/repository", "Pushing Manifests (a nonexistent repository)", func(t *trial) {
		name := fmt.Sprintf("%s/never-%x", p.repo, random(4))
		t.want(t.ask("GET", p.in(name, "manifests", "latest"), accept...), "GET of a manifest", 404)
		t.blobMissing(name, digestOf("sha256", random(9)))
	})
	p.run("missing/referrers", "Listing Referrers", func(t *trial) {
		t.referrersAre(digestOf("sha256", random(9)), nil)
	})
	p.run("invalid/digest of referrers", "Listing Referrers (400)", func(t *trial) {
		t.want(t.ask("GET", p.at("referrers", "sha256:tooshort")), "GET", 400)
	})
	p.run("invalid/digest of a blob", "Pulling blobs; Error Codes", func(t *trial) {
		t.want(t.ask("GET", p.at("blobs", "sha256:tooshort")), "GET", 400, 404)
	})
}

// readOnly asks for what others pushed.
func (p *probe) readOnly() {
	words := func(t *trial, name string) []string {
		list := strings.Fields(os.Getenv("OCI_RO_DATA_" + name))
		t.check(len(list) > 0, "OCI_RO_DATA_%s is empty", name)
		return list
	}
	p.run("read-only/tags", "Listing Tags", func(t *trial) { t.tagList(words(t, "TAGS")) })
	p.run("read-only/manifests by tag", "Pulling manifests; Checking if content exists in the registry", func(t *trial) {
		for _, tag := range words(t, "TAGS") {
			t.pullsAlike("manifests", tag)
		}
	})
	p.run("read-only/manifests by digest", "Pulling manifests; Checking if content exists in the registry", func(t *trial) {
		for _, digest := range words(t, "MANIFESTS") {
			t.pullsAlike("manifests", digest)
		}
	})
	p.run("read-only/blobs", "Pulling blobs; Checking if content exists in the registry", func(t *trial) {
		for _, digest := range words(t, "BLOBS") {
			t.pullsAlike("blobs", digest)
		}
	})
	p.run("read-only/ranges of blobs", "Pulling blobs (Range); RFC 9110 section 14.2", func(t *trial) {
		for _, digest := range words(t, "BLOBS") {
			whole := t.ask("GET", p.at("blobs", digest))
			if t.want(whole, "GET", 200) && len(whole.body) > 1 {
				t.rangeOf(digest, whole.body, "1-", 1, len(whole.body))
				t.rangeOf(digest, whole.body, "0-0", 0, 1)
				t.rangeOf(digest, whole.body, strconv.Itoa(len(whole.body))+"-", beyond, beyond)
			}
		}
	})
	p.run("read-only/referrers", "Listing Referrers", func(t *trial) {
		manifests := words(t, "MANIFESTS")
		for _, subject := range words(t, "REFERRERS") {
			entries := t.referrers(subject, "")
			t.check(len(entries) > 0, "%s has no referrers", subject)
			for _, entry := range entries {
				t.check(slices.Contains(manifests, entry.Digest), "%s was not pushed", entry.Digest)
			}
			t.referrersAre(subject, entries)
		}
	})
	if os.Getenv("OCI_API_MANIFESTS_DELETE") == "false" {
		p.run("read-only/deletes", "Deleting tags; Deleting Manifests; Deleting Blobs", func(t *trial) {
			t.deletionIsOff(map[string][]string{"manifests": append(words(t, "TAGS"), words(t, "MANIFESTS")...), "blobs": words(t, "BLOBS")})
		})
	}
}

// deletionIsOff asks a registry that deletes nothing. Section Deleting tags, Manifests, Blobs.
func (t *trial) deletionIsOff(things map[string][]string) {
	for kind, references := range things {
		t.check(len(references) > 0, "there are no %s to ask for", kind)
		for _, reference := range references {
			t.want(t.ask("DELETE", t.at(kind, reference)), "DELETE of "+reference, 400, 405)
			t.want(t.ask("HEAD", t.at(kind, reference), accept...), "HEAD after the DELETE of "+reference, 200)
		}
	}
}

// pullsAlike holds HEAD and GET of one thing to each other, and the content to its digest.
func (t *trial) pullsAlike(kind, reference string) {
	head := t.ask("HEAD", t.at(kind, reference), accept...)
	got := t.ask("GET", t.at(kind, reference), accept...)
	if !t.want(head, "HEAD of "+reference, 200) || !t.want(got, "GET of "+reference, 200) {
		return
	}
	digest := got.header.Get("Docker-Content-Digest")
	t.check(digest == digestOf(algorithmOf(digest), got.body), "%s: Docker-Content-Digest is %q, not that of the content", reference, digest)
	t.check(!strings.Contains(reference, ":") || reference == digest, "GET of %s gave %s", reference, digest)
	t.hasHeader(got, "GET of "+reference, "Content-Length", strconv.Itoa(len(got.body)))
	for _, key := range []string{"Docker-Content-Digest", "Content-Length", "Content-Type"} {
		t.check(got.header.Get(key) == head.header.Get(key), "%s of %s: HEAD says %q, GET %q", key, reference, head.header.Get(key), got.header.Get(key))
	}
	if kind == "manifests" {
		var body struct {
			MediaType string `json:"mediaType"`
		}
		err := json.Unmarshal(got.body, &body)
		t.check(err == nil && body.MediaType != "", "GET of %s: no manifest: %v", reference, err)
		t.hasHeader(got, "GET of "+reference, "Content-Type", body.MediaType)
	}
}

// keep pushes a set that stays, and writes down what a run without pushes may ask for.
func (p *probe) keep(file string) {
	p.run("keep/push", "Pushing Manifests", func(t *trial) {
		s := newSet("kept")
		artifactsWithSubject(s)
		indexed := newSet("kept index")
		indexed.twoImages(form{tag: "index"})
		var lines strings.Builder
		line := func(name string, values []string) {
			fmt.Fprintf(&lines, "export OCI_RO_DATA_%s='%s'\n", name, strings.Join(values, " "))
		}
		var tags, manifests, blobs, subjects []string
		for _, set := range []*dataSet{s, indexed} {
			t.pushSet(set)
			tags = append(tags, set.tagNames()...)
			for _, m := range set.manifests {
				manifests = append(manifests, m.digest)
			}
			blobs = append(blobs, set.blobDigests()...)
			for subject := range set.referrers {
				subjects = append(subjects, subject)
			}
		}
		line("TAGS", tags)
		line("MANIFESTS", manifests)
		line("BLOBS", blobs)
		line("REFERRERS", subjects)
		err := os.WriteFile(file, []byte(lines.String()), 0o644)
		t.check(err == nil, "%v", err)
	})
}

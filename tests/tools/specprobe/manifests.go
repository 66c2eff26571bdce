package main

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
)

var accept = []string{"Accept", indexType, "Accept", imageType}

// manifestCases pushes a set, looks at it from all sides and deletes it.
func (p *probe) manifestCases(s *dataSet) {
	name := "data/" + s.name + "/"
	p.run(name+"push", "Pushing Manifests; Pushing Manifests with Subject", func(t *trial) { t.pushSet(s) })
	p.run(name+"tags", "Listing Tags", func(t *trial) { t.tagList(s.tagNames()) })
	p.run(name+"pull", "Pulling manifests; Checking if content exists in the registry", func(t *trial) {
		for _, tag := range s.tagNames() {
			t.manifestThere(tag, s.manifest(s.tags[tag]))
		}
		for _, m := range s.manifests {
			t.manifestThere(m.digest, m)
		}
		for digest, content := range s.blobs {
			t.blobThere(digest, content)
		}
	})
	if len(s.referrers) > 0 {
		p.run(name+"referrers", "Listing Referrers", func(t *trial) {
			for subject, entries := range s.referrers {
				t.referrersAre(subject, entries)
			}
		})
	}
	p.run(name+"delete", "Deleting tags; Deleting Manifests; Deleting Blobs", func(t *trial) { t.deleteSet(s) })
}

func (t *trial) pushSet(s *dataSet) {
	for _, digest := range s.blobDigests() {
		pushed{t, t.repo, digest, s.blobs[digest]}.byPut()
	}
	for _, m := range s.manifests {
		var parameters []string
		if s.tagParameters {
			for _, tag := range s.tagNames() {
				if s.tags[tag] == m.digest {
					parameters = append(parameters, tag)
				}
			}
		}
		t.pushManifest(m, m.digest, parameters)
	}
	if s.tagParameters {
		return
	}
	for _, tag := range s.tagNames() {
		t.pushManifest(s.manifest(s.tags[tag]), tag, nil)
	}
}

// pushManifest pushes by a tag or by the digest; the tags named beside it go as parameters, which is
// of the specification's main branch.
func (t *trial) pushManifest(m manifest, reference string, parameters []string) {
	target := t.at("manifests", reference)
	for _, tag := range parameters {
		target = with(target, "tag", tag)
	}
	a := t.stream("PUT", target, m.body, "Content-Type", m.mediaType)
	what := "PUT of " + reference
	if !t.want(a, what, 201) {
		return
	}
	t.hasHeader(a, what, "Docker-Content-Digest", m.digest)
	if m.subject != "" {
		t.hasHeader(a, what, "OCI-Subject", m.subject)
	} else {
		t.check(a.header.Get("OCI-Subject") == "", "%s: OCI-Subject without a subject", what)
	}
	named := strings.FieldsFunc(strings.Join(a.header.Values("OCI-Tag"), ","), func(r rune) bool { return r == ',' || r == ' ' })
	for _, tag := range parameters {
		t.check(slices.Contains(named, tag), "%s: OCI-Tag lacks %s: %v", what, tag, named)
	}
	location := t.location(a, what, target)
	t.manifestAnswer(t.ask("GET", location, accept...), what+": GET of its Location", m)
}

func (t *trial) manifestThere(reference string, m manifest) {
	for _, method := range []string{"HEAD", "GET"} {
		t.manifestAnswer(t.ask(method, t.at("manifests", reference), accept...), method+" of "+reference, m)
	}
}

// manifestAnswer holds the answer to a HEAD or GET to the manifest, byte for byte.
func (t *trial) manifestAnswer(a *answer, what string, m manifest) {
	if !t.want(a, what, 200) {
		return
	}
	t.hasHeader(a, what, "Content-Type", m.mediaType)
	t.hasHeader(a, what, "Content-Length", strconv.Itoa(len(m.body)))
	t.hasHeader(a, what, "Docker-Content-Digest", m.digest)
	t.check(a.method == "HEAD" && len(a.body) == 0 || a.method == "GET" && bytes.Equal(a.body, m.body), "%s: other content", what)
}

func (t *trial) manifestMissing(reference string) {
	for _, method := range []string{"HEAD", "GET"} {
		t.want(t.ask(method, t.at("manifests", reference), accept...), method+" of "+reference+", which is not there", 404)
	}
}

func (t *trial) deleteSet(s *dataSet) {
	for _, tag := range s.tagNames() {
		t.want(t.ask("DELETE", t.at("manifests", tag)), "DELETE of the tag "+tag, 202)
		t.manifestMissing(tag)
		// The manifest stays.
		t.manifestThere(s.tags[tag], s.manifest(s.tags[tag]))
	}
	for _, tag := range t.tags(nil) {
		t.check(s.tags[tag] == "", "the list still has the deleted tag %s", tag)
	}
	for _, m := range slices.Backward(s.manifests) {
		t.want(t.ask("DELETE", t.at("manifests", m.digest)), "DELETE of "+m.digest, 202)
		t.manifestMissing(m.digest)
	}
	for subject := range s.referrers {
		t.referrersAre(subject, nil)
	}
	for _, digest := range s.blobDigests() {
		t.deleteBlob(t.repo, digest)
	}
}

func (p *probe) refusedPushes() {
	// withImage pushes the blobs of an image, not its manifest, and deletes them afterwards.
	withImage := func(name, section string, f func(*trial, manifest)) {
		p.run(name, section, func(t *trial) {
			s := newSet(name)
			s.image(form{layers: 2})
			for digest, content := range s.blobs {
				pushed{t, p.repo, digest, content}.byPut()
			}
			f(t, s.manifests[0])
			for digest := range s.blobs {
				t.deleteBlob(p.repo, digest)
			}
		})
	}
	put := func(t *trial, reference, mediaType string, body []byte) *answer {
		return t.stream("PUT", p.at("manifests", reference), body, "Content-Type", mediaType)
	}
	withImage("refused/digest of another manifest", "Pushing Manifests; Content Verification", func(t *trial, m manifest) {
		t.want(put(t, m.digest, m.mediaType, append(bytes.Clone(m.body), "  "...)), "PUT", 400)
		t.manifestMissing(m.digest)
	})
	withImage("refused/digest of a wrong form", "Pulling manifests (reference)", func(t *trial, m manifest) {
		for _, reference := range []string{"sha256:tooshort", "sha256:" + strings.Repeat("X", 64), "sha256:" + strings.Repeat("a", 63)} {
			t.want(put(t, reference, m.mediaType, m.body), "PUT of "+reference, 400)
			t.want(t.ask("GET", p.at("manifests", reference), accept...), "GET of "+reference, 400, 404)
		}
		t.manifestMissing(m.digest)
	})
	withImage("refused/tag of a wrong form", "Pulling manifests (reference)", func(t *trial, m manifest) {
		for _, reference := range []string{strings.Repeat("a", 129), "-begin", "a%40b"} {
			t.want(put(t, reference, m.mediaType, m.body), "PUT of "+reference, 400, 404)
		}
		t.manifestMissing(m.digest)
	})
	withImage("refused/no JSON", "Error Codes (MANIFEST_INVALID)", func(t *trial, m manifest) {
		a := put(t, "no-json", m.mediaType, m.body[:len(m.body)-1])
		if t.want(a, "PUT", 400) {
			t.check(slices.Contains(a.codes(), "MANIFEST_INVALID"), "want MANIFEST_INVALID: %s", a)
		}
		t.manifestMissing("no-json")
	})
	withImage("taken/parameters of the Content-Type", "Pushing Manifests; Pulling manifests", func(t *trial, m manifest) {
		t.want(put(t, m.digest, m.mediaType+"; charset=utf-8", m.body), "PUT", 201)
		t.manifestThere(m.digest, m)
		t.want(t.ask("DELETE", p.at("manifests", m.digest)), "DELETE", 202)
	})
	p.run("refused/too large", "Pushing Manifests (413)", func(t *trial) {
		s := newSet("too large")
		s.index(form{annotations: map[string]string{"large": strings.Repeat("A", 32<<20)}})
		a := t.send("PUT", p.at("manifests", "too-large"), s.manifests[0].body, "Content-Type", indexType)
		t.want(a, "PUT of 32 MB", 413)
		t.manifestMissing("too-large")
	})
	p.run("refused/missing references", "Push (MANIFEST_BLOB_UNKNOWN)", func(t *trial) {
		s := newSet("missing references")
		s.image(form{layers: 2})
		m := s.manifests[0]
		a := put(t, m.digest, m.mediaType, m.body)
		if p.sparse {
			t.want(a, "PUT", 201)
			t.want(t.ask("DELETE", p.at("manifests", m.digest)), "DELETE", 202)
		} else if t.want(a, "PUT", 400, 404) {
			t.check(slices.Contains(a.codes(), "MANIFEST_BLOB_UNKNOWN"), "want MANIFEST_BLOB_UNKNOWN: %s", a)
			t.manifestMissing(m.digest)
		}
	})
}

package main

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// blobThere pulls a blob that has to be there. Section Pulling blobs, Checking if content exists.
func (t *trial) blobThere(digest string, content []byte) {
	for _, method := range []string{"HEAD", "GET"} {
		a := t.ask(method, t.at("blobs", digest))
		what := method + " of the blob"
		if t.want(a, what, 200) {
			t.hasHeader(a, what, "Content-Length", strconv.Itoa(len(content)))
			t.hasHeader(a, what, "Docker-Content-Digest", digest)
			t.check(method == "HEAD" && len(a.body) == 0 || method == "GET" && bytes.Equal(a.body, content), "%s: other content", what)
		}
	}
}

func (t *trial) blobMissing(repo, digest string) {
	t.want(t.ask("HEAD", t.in(repo, "blobs", digest)), "HEAD of a blob that is not there", 404)
	t.want(t.ask("GET", t.in(repo, "blobs", digest)), "GET of a blob that is not there", 404)
}

// deleteBlob deletes a blob that has to be there. Section Deleting Blobs.
func (t *trial) deleteBlob(repo, digest string) {
	t.want(t.ask("DELETE", t.in(repo, "blobs", digest)), "DELETE of the blob", 202)
	t.blobMissing(repo, digest)
	t.want(t.ask("DELETE", t.in(repo, "blobs", digest)), "DELETE of a deleted blob", 404)
}

type blobCase struct {
	name, section string
	push          func(pushed)
}

var waysToPush = []blobCase{
	{"post", "Single POST", pushed.byPost},
	{"post and put", "POST then PUT", pushed.byPut},
	{"stream", "Pushing a blob in chunks", pushed.byStream},
	{"chunks", "Pushing a blob in chunks", func(b pushed) { b.byChunks(chunks{}) }},
	{"chunks, the last by put", "Pushing a blob in chunks", func(b pushed) { b.byChunks(chunks{lastByPut: true}) }},
}

var waysOutOfOrder = []blobCase{
	{"chunks out of order", "Pushing a blob in chunks (416)", func(b pushed) { b.byChunks(chunks{disorder: true}) }},
	{"chunks out of order, the last by put", "Pushing a blob in chunks (416)",
		func(b pushed) { b.byChunks(chunks{disorder: true, lastByPut: true}) }},
	{"mount of a missing blob", "Mounting a blob from another repository (202)",
		func(b pushed) { b.byMissedMount(b.other) }},
}

func (p *probe) blobCases(algorithm string) {
	prefix := algorithm + " blobs/"
	sizes := []struct {
		name    string
		content func() []byte
	}{
		{"one chunk", func() []byte { return random(512) }},
		{"three chunks", func() []byte { return random(3*1024 - 5) }},
		{"empty", func() []byte { return []byte{} }},
		{"empty JSON", func() []byte { return []byte("{}") }},
		{"one MB", func() []byte { return random(1 << 20) }},
	}
	for _, size := range sizes {
		for _, way := range waysToPush {
			p.pushCase(prefix+size.name+" by "+way.name, algorithm, way, size.content())
		}
	}
	for _, way := range waysOutOfOrder {
		p.pushCase(prefix+way.name, algorithm, way, random(3*1024-5))
	}
	p.mountCases(prefix, algorithm)
	p.rangeCases(prefix, algorithm)
	for _, way := range waysToPush {
		p.run(prefix+"wrong digest by "+way.name, way.section+"; Content Verification", func(t *trial) {
			content := random(3*1024 - 5)
			other := append(bytes.Clone(content), "more"...)
			digest := digestOf(algorithm, content)
			way.push(pushed{t, p.repo, digest, other})
			t.blobMissing(p.repo, digest)
			t.blobMissing(p.repo, digestOf(algorithm, other))
		})
	}
	// The text has this DELETE on the main branch only; clients of all versions send it.
	p.run(prefix+"given up", "Pushing a blob in chunks; cancel (main branch)", func(t *trial) {
		target, ok := pushed{trial: t, repo: p.repo}.begin()
		if ok {
			t.want(t.ask("DELETE", target), "DELETE of the upload", 204)
			t.want(t.ask("GET", target), "GET of the upload that was given up", 404)
			t.want(t.send("PATCH", target, random(9), "Content-Type", octets), "PATCH of the upload that was given up", 404)
		}
	})
}

func (p *probe) pushCase(name, algorithm string, way blobCase, content []byte) {
	p.run(name, way.section, func(t *trial) {
		digest := digestOf(algorithm, content)
		t.blobMissing(p.repo, digest)
		way.push(pushed{t, p.repo, digest, content})
		t.blobThere(digest, content)
		t.deleteBlob(p.repo, digest)
	})
}

func (p *probe) mountCases(prefix, algorithm string) {
	for name, from := range map[string]string{"mount": p.other, "mount from anywhere": ""} {
		p.run(prefix+name, "Mounting a blob from another repository", func(t *trial) {
			content := random(512)
			digest := digestOf(algorithm, content)
			pushed{t, p.other, digest, content}.byPut()
			t.blobMissing(p.repo, digest)
			pushed{t, p.repo, digest, content}.byMount(from)
			if t.status != skipped {
				t.blobThere(digest, content)
				// Each repository has its own.
				t.deleteBlob(p.other, digest)
				t.blobThere(digest, content)
				t.deleteBlob(p.repo, digest)
				return
			}
			t.deleteBlob(p.other, digest)
		})
	}
}

// Ranges that there can't be. A registry may ignore or refuse one that is no range at all.
const (
	beyond  = -1
	invalid = -2
)

func (p *probe) rangeCases(prefix, algorithm string) {
	const section, size = "Pulling blobs (Range); RFC 9110 section 14.2", 2048
	content := random(size)
	digest := digestOf(algorithm, content)
	p.run(prefix+"ranges begin", section, func(t *trial) { pushed{t, p.repo, digest, content}.byPut() })
	for _, c := range []struct {
		value    string
		from, to int
	}{
		{"0-0", 0, 1}, {"0-2047", 0, size}, {"500-1499", 500, 1500}, {"500-", 500, size}, {"-500", size - 500, size},
		{"2000-5000", 2000, size}, {"-5000", 0, size}, {"5000-10000", beyond, beyond}, {"2048-", beyond, beyond}, {"500-0", invalid, invalid},
	} {
		p.run(prefix+"range "+c.value, section, func(t *trial) { t.rangeOf(digest, content, c.value, c.from, c.to) })
	}
	p.run(prefix+"ranges end", "Deleting Blobs", func(t *trial) { t.deleteBlob(p.repo, digest) })
}

func (t *trial) rangeOf(digest string, content []byte, value string, from, to int) {
	a := t.ask("GET", t.at("blobs", digest), "Range", "bytes="+value)
	switch {
	case a.status == 200:
		if t.check(bytes.Equal(a.body, content), "a status of 200 without the whole blob") && to != invalid {
			t.skip("the range is ignored")
		}
	case to < 0:
		t.want(a, "GET", 416)
	case t.want(a, "GET", 206):
		t.hasHeader(a, "GET", "Content-Length", strconv.Itoa(to-from))
		t.hasHeader(a, "GET", "Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to-1, len(content)))
		t.check(bytes.Equal(a.body, content[from:to]), "other content")
	}
}

func algorithmOf(digest string) string {
	algorithm, _, _ := strings.Cut(digest, ":")
	return algorithm
}

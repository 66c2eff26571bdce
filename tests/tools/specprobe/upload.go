package main

import (
	"bytes"
	"fmt"
)

const octets = "application/octet-stream"

// pushed is one blob on its way into a repository. Where the digest is not that of the content, the
// last request has to be refused.
type pushed struct {
	*trial
	repo, digest string
	content      []byte
}

func (b pushed) honest() bool { return b.digest == digestOf(algorithmOf(b.digest), b.content) }

// closed checks the answer to the request that ends an upload.
func (b pushed) closed(a *answer, what, otherwise string) {
	if !b.honest() {
		if b.want(a, what+" with the digest of other content", 400) {
			b.check(len(a.codes()) == 0 || a.codes()[0] == "DIGEST_INVALID", "%s: want DIGEST_INVALID: %s", what, a)
		}
		return
	}
	if b.want(a, what, 201) {
		b.there(a, what, otherwise)
	}
}

// there follows the Location of a blob that was taken.
func (b pushed) there(a *answer, what, otherwise string) {
	if values := a.header.Values("Docker-Content-Digest"); len(values) > 0 {
		b.hasHeader(a, what, "Docker-Content-Digest", b.digest)
	}
	got := b.ask("GET", b.location(a, what, otherwise))
	if b.want(got, what+": GET of its Location", 200) {
		b.check(bytes.Equal(got.body, b.content), "%s: the Location has other content", what)
	}
}

func (b pushed) begin() (target string, ok bool) {
	a := b.ask("POST", b.in(b.repo, "blobs", "uploads/"))
	if !b.want(a, "POST", 202) {
		return "", false
	}
	return b.location(a, "POST", ""), true
}

// Section Single POST.
func (b pushed) byPost() {
	target := with(b.in(b.repo, "blobs", "uploads/"), "digest", b.digest)
	a := b.send("POST", target, b.content, "Content-Type", octets)
	if a.status == 202 {
		b.skip("a single POST with the content is not taken")
		return
	}
	b.closed(a, "POST", target)
}

// Section POST then PUT.
func (b pushed) byPut() {
	if target, ok := b.begin(); ok {
		b.closed(b.send("PUT", with(target, "digest", b.digest), b.content, "Content-Type", octets), "PUT", target)
	}
}

// One PATCH without a Content-Range and a length: what Docker does, and section Pushing a blob in chunks allows.
func (b pushed) byStream() {
	target, ok := b.begin()
	if !ok {
		return
	}
	a := b.stream("PATCH", target, b.content, "Content-Type", octets)
	if b.want(a, "PATCH", 202) {
		target = b.location(a, "PATCH", target)
		b.closed(b.send("PUT", with(target, "digest", b.digest), nil), "PUT", target)
	}
}

// chunks says how a blob is cut: whether the last chunk goes with the closing PUT, and whether each
// chunk is first preceded by one that is out of order.
type chunks struct{ lastByPut, disorder bool }

// Section Pushing a blob in chunks.
func (b pushed) byChunks(how chunks) {
	a := b.send("POST", b.in(b.repo, "blobs", "uploads/"), nil)
	if !b.want(a, "POST", 202) {
		return
	}
	target := b.location(a, "POST", "")
	size := min(max(len(b.content)/3+1, 1024), len(b.content))
	for end := 0; end < len(b.content); end += size {
		if how.disorder {
			target = b.outOfOrder(target, end, size, how.lastByPut)
		}
		to := min(end+size, len(b.content))
		if how.lastByPut && to == len(b.content) {
			b.closed(b.chunk("PUT", with(target, "digest", b.digest), end, to), "PUT of the last chunk", target)
			return
		}
		a = b.chunk("PATCH", target, end, to)
		what := fmt.Sprintf("PATCH of %d-%d", end, to-1)
		if !b.want(a, what, 202) {
			return
		}
		b.hasHeader(a, what, "Range", fmt.Sprintf("0-%d", to-1))
		target = b.location(a, what, target)
		b.progress(target, to)
	}
	b.closed(b.send("PUT", with(target, "digest", b.digest), nil), "PUT", target)
}

func (b pushed) chunk(method, target string, from, to int) *answer {
	return b.send(method, target, b.content[from:to], "Content-Type", octets, "Content-Range", fmt.Sprintf("%d-%d", from, to-1))
}

// outOfOrder sends another chunk than the next one; it must be refused and change nothing.
func (b pushed) outOfOrder(target string, end, size int, lastByPut bool) string {
	from := end + size
	if from >= len(b.content) {
		from = 0
	}
	to := min(from+size, len(b.content))
	method, address := "PATCH", target
	if lastByPut && to == len(b.content) {
		method, address = "PUT", with(target, "digest", b.digest)
	}
	a := b.chunk(method, address, from, to)
	b.want(a, fmt.Sprintf("%s of %d-%d after %d bytes", method, from, to-1, end), 416)
	return b.progress(target, end)
}

// progress asks an open upload how far it is, and returns where it goes on. Nothing tells an upload
// of one byte from an empty one.
func (b pushed) progress(target string, end int) string {
	a := b.ask("GET", target)
	if !b.want(a, "GET of the upload", 204) {
		return target
	}
	if end > 0 {
		b.hasHeader(a, "GET of the upload", "Range", fmt.Sprintf("0-%d", end-1))
	} else {
		b.check(a.header.Get("Range") != "", "GET of the upload: no Range")
	}
	return b.location(a, "GET of the upload", target)
}

// Section Mounting a blob from another repository; where `from` is empty, the registry looks itself.
func (b pushed) byMount(from string) {
	target := with(b.in(b.repo, "blobs", "uploads/"), "mount", b.digest)
	if from != "" {
		target = with(target, "from", from)
	}
	a := b.ask("POST", target)
	if a.status == 202 {
		b.location(a, "POST", "")
		b.skip("a mount is answered with an upload")
		return
	}
	b.closed(a, "POST", target)
}

// A mount of what is nowhere is the begin of an upload.
func (b pushed) byMissedMount(from string) {
	a := b.ask("POST", with(with(b.in(b.repo, "blobs", "uploads/"), "mount", b.digest), "from", from))
	if b.want(a, "mount of a blob that is nowhere", 202) {
		target := b.location(a, "mount", "")
		b.closed(b.send("PUT", with(target, "digest", b.digest), b.content, "Content-Type", octets), "PUT after the mount", target)
	}
}
